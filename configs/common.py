"""The recipes that the systems share, by data set: images, augmentation, optimizer and length."""

from typing import Any

Recipe = dict[str, dict[str, Any]]

# GRNet's paper, Section 5.1.
_PAPER: Recipe = {
    "image": {"size": 224},
    "augment": {"flip": True},
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "step",
        "lr_milestones": (20.0, 40.0),
    },
    "train": {"batch_size": 32, "epochs": 60.0, "eval_every": 5000, "checkpoint_every": 5000},
}
# For training from scratch at a size that two CPU cores train in minutes.
_SYNTHETIC: Recipe = {
    "image": {"size": 64},
    "augment": {"flip": True, "crop_jitter": 0.1},
    "optimizer": {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "clip_norm": 1.0,
    },
    "train": {"batch_size": 32, "steps": 1000, "eval_every": 250, "checkpoint_every": 250},
}
# For a shop's own photos: fine-tuning of ImageNet weights on a few thousand pairs.
_OWN: Recipe = {
    "image": {"size": 224},
    "augment": {"flip": True, "crop_jitter": 0.1, "color_jitter": 0.1},
    "optimizer": {**_SYNTHETIC["optimizer"], "learning_rate": 1e-4},
    "train": {"batch_size": 32, "epochs": 60.0, "eval_every": 250, "checkpoint_every": 250},
}

# Heads on frozen ImageNet features, whose maps are computed once.
_FROZEN: Recipe = {
    "image": {"size": 128},
    "augment": {"flip": True, "crop_jitter": 0.1},
    "optimizer": {**_SYNTHETIC["optimizer"], "trainable": "-backbone"},
    "train": {
        **{"batch_size": 128, "steps": 600, "cached_views": 4},
        **{"eval_every": 200, "checkpoint_every": 200},
    },
}
_OWN_FROZEN: Recipe = {
    **_FROZEN,
    # More than the network was trained at: untrained features find more, docs/results.md.
    "image": {"size": 288},
    "train": {
        **{"batch_size": 32, "steps": 200, "cached_views": 8},
        **{"eval_every": 100, "checkpoint_every": 100},
    },
}

OWN_PHOTOS = ("manifest", "folder")
OURS = ("synthetic", *OWN_PHOTOS)  # no paper has a recipe for them


def recipe(dataset: str) -> Recipe:
    """Returns the sections image, augment, optimizer and train for this data set."""
    found = {"synthetic": _SYNTHETIC, **dict.fromkeys(OWN_PHOTOS, _OWN)}.get(dataset, _PAPER)
    return {section: dict(fields) for section, fields in found.items()}


def frozen_recipe(dataset: str) -> Recipe:
    """Returns `recipe`'s sections of systems that learn on frozen features, but the papers'."""
    found = {"synthetic": _FROZEN, **dict.fromkeys(OWN_PHOTOS, _OWN_FROZEN)}.get(dataset, _PAPER)
    return {section: dict(fields) for section, fields in found.items()}


def frozen_backbone(dataset: str) -> dict[str, Any]:
    """Returns `model.backbone` of `frozen_recipe`: ImageNet features and colors, or the papers'."""
    if dataset not in OURS:
        return backbone(dataset)
    # Drawn garments fill their boxes alike, so that small cells tell more; photos differ in pose.
    stride, color = (16, 0.3) if dataset == "synthetic" else (32, 0.5)
    return {
        **{"name": "efficientnet_lite0", "pretrained": "imagenet", "frozen_batch_norm": True},
        **{"stride": stride, "cell_color_weight": color},
    }


def grid_cells(dataset: str) -> int:
    """Returns the side of the grid that embeddings are averaged over, 1 for own photos."""
    return 1 if dataset in OWN_PHOTOS else 4


def backbone(dataset: str, name: str = "googlenet") -> dict[str, Any]:
    """Returns `model.backbone`: the small network on the synthetic set, else the paper's."""
    return {"name": "small" if dataset == "synthetic" else name}


def pair_loss(dataset: str) -> dict[str, Any]:
    """Returns GRNet's loss; from scratch and with few items the softmax learns faster (ours)."""
    return {"name": "pairs", "query_softmax_weight": 1.0 if dataset in OURS else 0.0}


def score_bias_init(dataset: str) -> float:
    """Returns the paper's 0, or -log 31, which knows how rare a match is among 32 shop images."""
    return -3.43 if dataset in OURS else 0.0
