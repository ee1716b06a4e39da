"""Retrieval of Detect-Then-Retrieve (Kucer and Murray 2019): triplets or AP.

python train.py --config=configs/detect_then_retrieve.py              the synthetic set, triplets
python train.py --config=configs/detect_then_retrieve.py:synthetic,ap
python train.py --config=configs/detect_then_retrieve.py:street2shop,ap --config.dataset.source=...

The argument is DATASET[,LOSS]: "triplet", "ap", or "classification" of the training items, whose
backbone the other two start from (train.init_from). docs/losses.md has the equations, and what is
our reading. Measured on the synthetic set: docs/reproduce.md.
"""

from typing import Any

import ml_collections

from configs import common
from grnet_jax.config import make_config

# What each loss trains on, and how many items or images a batch has, on the synthetic set and else.
_SAMPLERS = {"triplet": "items", "ap": "items", "classification": "images"}
_BATCHES = {"triplet": (32, 32), "ap": (128, 512), "classification": (64, 64)}
_LOSSES: dict[str, dict[str, Any]] = {
    # Margin and mining are ours.
    "triplet": {"distance": "squared_l2", "margin": 0.1, "miner": "hardest"},
    "ap": {"bins": 20},
    "classification": {"label": "item", "class_weight": 1.0},
}


def get_config(argument: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config for that data set and loss, or the synthetic set's size of it."""
    dataset, _, loss = argument.partition(",")
    dataset, loss = dataset or "synthetic", loss or "triplet"
    if loss not in _LOSSES:
        raise ValueError(
            f"--config=...:{argument}: unknown loss; behind the comma is one of {list(_LOSSES)}"
        )
    recipe, small = _recipe(dataset, loss), dataset == "synthetic"
    classes = {"synthetic": 1600}.get(dataset, 1) if loss == "classification" else 0
    return make_config(
        name=f"detect_then_retrieve_{loss}_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "embedding",
            "backbone": {
                **common.backbone(dataset, "resnet50"),
                # The large batch's gradient is exact where BatchNorm keeps its statistics.
                "frozen_batch_norm": not small and loss != "classification",
            },
            "embedding_dim": 128 if small else 2048,
            # Training items of the synthetic set; of other sets training says how many there are.
            "num_classes": classes,
        },
        # In-shop training images have no roles.
        sampler={"name": _SAMPLERS[loss], "cross_domain": dataset != "deepfashion_inshop"},
        loss={"name": loss, **_LOSSES[loss]},
        **recipe,
    )


def _recipe(dataset: str, loss: str) -> common.Recipe:
    """Image, augmentation, optimizer and length."""
    recipe, small = common.recipe(dataset), dataset == "synthetic"
    # Queries are cut to their box, the gallery to nothing; with a detector's boxes
    # --config.image.shop_crop=detected --config.image.detections=boxes.csv.
    recipe["image"] |= {"crop": "box", "shop_crop": "none"}
    if loss == "ap":
        # The paper cuts squares in training alone. At test it takes the whole crop in its aspect
        # ratio; a network of one input size takes the whole crop, stretched.
        recipe["image"]["square"] = "training"
    # Color distortion, tilt, skew and crop are the paper's, their sizes ours.
    recipe["augment"] |= {
        "color_jitter": 0.2,
        "hue_jitter": 0.03,
        "rotation_degrees": 10.0,
        "shear": 0.1,
        "crop_jitter": 0.1,
    }
    recipe["train"]["batch_size"] = _BATCHES[loss][0 if small else 1]
    if loss == "classification":
        # Validation ranks images; of a run that others start from the last step counts.
        recipe["train"]["eval_every"] = 0
    if not small:
        if loss != "classification":
            recipe["image"]["size"] = 800
            recipe["train"]["microbatch_size"] = 16
        # The paper's optimizer and steps are not known, these are ours.
        recipe["optimizer"] = {
            "name": "adamw",
            "learning_rate": 1e-4 if loss == "classification" else 1e-5,
            "weight_decay": 0.0,
            "schedule": "cosine",
            "clip_norm": 1.0,
        }
        recipe["train"]["epochs"] = 30.0
    return recipe
