"""FashionNet (Liu et al., DeepFashion, CVPR 2016).

python train.py --config=configs/fashionnet.py             the synthetic set
python train.py --config=configs/fashionnet.py:deepfashion_attributes \\
    --config.dataset.source=DOWNLOADED

Other data sets are named as for configs/grnet.py; those whose numbers of categories and attributes
are not the config's say so before training starts. Ablations: model.pooling, loss.PHASE.attributes
of 0 (landmarks without attributes), loss.most_frequent_attributes (FashionNet+100, +500).

Synthetic set: 13.6% top-1, PDJ@0.1 57%, category 60%, measured
(benchmarks/results/reproduce_fashionnet_synthetic.json).
"""

from typing import Any

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns FashionNet's config for that data set: the paper's size, or the synthetic set's."""
    return make_config(
        name=f"fashionnet_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "fashionnet",
            # Or vgg16_bn: the last stage is doubled, the others are shared.
            "backbone": {"name": "vgg_small" if dataset == "synthetic" else "vgg16"},
            **outputs(dataset),
            **({"embedding_dim": 256, "landmark_window": 4} if dataset == "synthetic" else {}),
        },
        sampler={"name": sampler(dataset)},
        loss={
            "name": "fashionnet",
            "cycles": 2,
            "pose": {
                **{"fraction": 0.3, "landmarks": 100.0, "visibility": 1.0, "category": 0.1},
                **{"attributes": 1.0, "triplets": triplets(dataset, 0.1)},
            },
            "recognition": {
                **{"fraction": 0.7, "landmarks": 10.0, "visibility": 0.1, "category": 1.0},
                **{"attributes": 10.0, "triplets": triplets(dataset, 1.0)},
            },
        },
        **recipe(dataset),
    )


def outputs(dataset: str) -> dict[str, Any]:
    """Returns how many categories and attributes a network tells, and the width of its layers."""
    if dataset == "synthetic":
        return {"num_classes": 13, "num_attributes": 52, "hidden": 256, "dropout": 0.0}
    # DeepFashion's benchmark of categories and attributes, and its finer annotations.
    fine = dataset == "deepfashion_fine"
    return {"num_classes": 50, "num_attributes": 26 if fine else 1000, "hidden": 4096}


def sampler(dataset: str) -> str:
    """Returns "images" for sets in which each image is an item of its own."""
    return "images" if dataset in ("deepfashion_attributes", "deepfashion_fine") else "items"


def triplets(dataset: str, weight: float) -> float:
    """Returns a weight of the triplets; 0 for sets without."""
    return weight if sampler(dataset) == "items" else 0.0


def recipe(dataset: str) -> common.Recipe:
    """Returns GRNet's recipe; on the synthetic set with more steps."""
    sections = common.recipe(dataset)
    if dataset == "synthetic":
        sections["train"] |= {"steps": 1500, "eval_every": 500, "checkpoint_every": 500}
    return sections
