"""A clothing detector: Mask R-CNN (He et al., ICCV 2017), for photos that others crop.

python train.py --config=configs/detector.py               drawn photos
python train.py --config=configs/detector.py:modanet --config.dataset.source=DOWNLOADED \\
    --config.model.backbone.pretrained=resnet50.grnet.safetensors
python eval.py --workdir=runs/detector_modanet
python -m grnet_jax.detect photos/ --workdir=runs/detector_modanet    boxes, classes and masks

Of photos it is torchvision's recipe for 16 photos a step: ResNet-50, 26 epochs. BatchNorm's
statistics stay as they are; every parameter learns, where torchvision's first layers stay. Drawn
photos have heads alone that learn, on EfficientNet-Lite.
--config.model.mask_channels=0 finds boxes alone (Faster R-CNN).
"""

from typing import Any

import ml_collections

from grnet_jax.config import make_config

# At a size that two CPU cores train in a quarter of an hour. Heads on frozen ImageNet features
# learn twice as fast as with a small network from scratch.
_DRAWN: dict[str, Any] = {
    "model": {
        "backbone": {
            **{"name": "efficientnet_lite0", "pretrained": "imagenet", "frozen_batch_norm": True},
            "stride": 16,
        },
        "canvas": (160, 128),
        "strides": (4, 8, 16),
        "anchor_sizes": (24.0, 48.0, 96.0),
        "pyramid_channels": 64,
        "hidden": 256,
        "mask_channels": 32,
        "mask_layers": 2,
        "before_nms": (200, 200),
        "after_nms": (100, 100),
        "sampled_boxes": 64,
        "sampled_masks": 4,  # all 16 take as long as everything else
        "detections": 20,
    },
    "optimizer": {
        "name": "adamw",
        "learning_rate": 1.5e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "clip_norm": 1.0,
        "trainable": "-backbone",
    },
    "train": {"batch_size": 8, "steps": 3000, "eval_every": 500, "checkpoint_every": 500},
    "eval": {"batch_size": 16, "protocol": {"split": "val"}},
}
_PHOTOS: dict[str, Any] = {
    "model": {"backbone": {"name": "resnet50", "frozen_batch_norm": True}},
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.02,
        "weight_decay": 1e-4,
        "schedule": "step",
        "lr_milestones": (16.0, 22.0),
    },
    "train": {"batch_size": 16, "epochs": 26.0, "eval_every": 5000, "checkpoint_every": 1000},
    "eval": {"batch_size": 8, "protocol": {"split": "val"}},
}


def get_config(dataset: str = "synthetic_objects") -> ml_collections.ConfigDict:
    """Returns the detector's config for that data set: small for drawn photos, else ResNet-50."""
    sections = _DRAWN if dataset in ("synthetic", "synthetic_objects") else _PHOTOS
    return make_config(
        name=f"detector_{dataset}",
        dataset={"name": dataset},
        augment={"flip": True},
        sampler={"name": "images"},
        loss={"name": "detection"},
        **{**sections, "model": {"name": "detector", "num_classes": 13, **sections["model"]}},
    )
