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
_ADAMW: dict[str, Any] = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "clip_norm": 1.0,
}
# Heads on ImageNet features that stay: two CPU cores train them in minutes.
_EMBEDDED: Recipe = {
    "image": {"size": 128},
    "augment": {"flip": True, "crop_jitter": 0.1},
    "optimizer": {**_ADAMW, "trainable": "-backbone"},
    "train": {
        "batch_size": 32,
        "steps": 600,
        "cached_views": 4,
        "eval_every": 200,
        "checkpoint_every": 200,
    },
}
# Whole networks: a small one from scratch, and the papers' fine-tuned on a shop's own photos.
_EMBEDDED_WHOLE: Recipe = {
    "image": {"size": 64},
    "augment": {"flip": True, "crop_jitter": 0.1},
    "optimizer": _ADAMW,
    "train": {"batch_size": 32, "steps": 1000, "eval_every": 250, "checkpoint_every": 250},
}
# For a shop's own photos, of which there may be few.
_OWN: Recipe = {
    "image": {"size": 224},
    "augment": {"flip": True, "crop_jitter": 0.1},
    "optimizer": {**_ADAMW, "trainable": "-backbone"},
    "train": {
        "batch_size": 32,
        "steps": 600,
        "cached_views": 8,
        "eval_every": 200,
        "checkpoint_every": 200,
    },
}
_OWN_WHOLE: Recipe = {
    "image": {"size": 224},
    "augment": {"flip": True, "crop_jitter": 0.1, "color_jitter": 0.1},
    "optimizer": {**_ADAMW, "learning_rate": 1e-4},
    "train": {"batch_size": 32, "epochs": 60.0, "eval_every": 250, "checkpoint_every": 250},
}

_OURS = ("synthetic", "manifest", "folder")  # no paper has a recipe for them


def recipe(dataset: str, whole: bool = False) -> Recipe:
    """Returns the sections image, augment, optimizer and train for this data set.

    Args:
      dataset: its name; papers have recipes for theirs.
      whole: of the others', the recipe of networks whose layers all learn.
    """
    embedded, own = (_EMBEDDED_WHOLE, _OWN_WHOLE) if whole else (_EMBEDDED, _OWN)
    found = {"synthetic": embedded, "manifest": own, "folder": own}.get(dataset, _PAPER)
    return {section: dict(fields) for section, fields in found.items()}


def large_batches(dataset: str) -> Recipe:
    """Returns `recipe` for systems that do not score all pairs: on the embedded set 128 items."""
    found = recipe(dataset)
    if dataset == "synthetic":
        found["train"]["batch_size"] = 128
    return found


def backbone(dataset: str, name: str = "googlenet", whole: bool = False) -> dict[str, Any]:
    """Returns `model.backbone`: the paper's, or ImageNet features and colors where they stay.

    Args:
      dataset: its name.
      name: the paper's backbone.
      whole: of `recipe`; on the embedded set that of the small network.
    """
    if whole or dataset not in _OURS:
        return {"name": "small" if dataset == "synthetic" else name}
    return {
        "name": "efficientnet_lite0",
        "stride": 16,
        "pretrained": "imagenet",
        "frozen_batch_norm": True,
        "color_weight": 0.3,
    }


def pair_loss(dataset: str) -> dict[str, Any]:
    """Returns GRNet's loss; from scratch and with few items the softmax learns faster (ours)."""
    return {"name": "pairs", "query_softmax_weight": 1.0 if dataset in _OURS else 0.0}


def score_bias_init(dataset: str) -> float:
    """Returns the paper's 0, or -log 31, which knows how rare a match is among 32 shop images."""
    return -3.43 if dataset in _OURS else 0.0
