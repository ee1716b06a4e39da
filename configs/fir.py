"""The study of fashion retrieval (Park et al., 2019): classes and triplets.

python train.py --config=configs/fir.py                       the small backbone, synthetic set
python train.py --config=configs/fir.py:deepfashion_inshop --config.dataset.source=DOWNLOADED \\
  --config.model.backbone.name=seresnet50

OC is --config.loss.name=classification, OC+OS --config.loss.similarity=category, and OC+IS the
default. docs/losses.md has the equations, and what is our reading.

Measured on the synthetic set: docs/reproduce.md.
"""

from typing import Any

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the study's config for that data set, or the synthetic set's size and steps of it."""
    recipe, small = common.recipe(dataset), dataset == "synthetic"
    recipe["image"]["crop"] = "none"  # whole images, not cut to the garment's box
    if not small:
        # Adam, which AdamW without decay is; the number of epochs is ours.
        recipe["optimizer"] = {
            "name": "adamw",
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "schedule": "step",
            "lr_milestones": (100.0, 150.0),
        }
        recipe["train"]["epochs"] = 200.0
    # The relaxation stands before the category head alone. Its sizes are ours.
    relaxation: dict[str, Any] = {"path": "classes", "channels": 64 if small else 512}
    return make_config(
        name=f"fir_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "embedding",
            # Or densenet121, seresnet50, seresnext50_32x4d.
            "backbone": common.backbone(dataset, "resnet50"),
            # The embedding is the backbone's mean, 2048-d of the ResNets, 1024-d of DenseNet-121.
            "pooling": "average",
            "embedding_dim": 0,
            # Of the category head: DeepFashion has up to 50, the synthetic set 13. Those that no
            # image has only learn to be low.
            "num_classes": 13 if small else 50,
            "relaxation": relaxation,
        },
        # In-shop training images have no roles.
        sampler={"name": "items", "cross_domain": dataset != "deepfashion_inshop"},
        # Eq. 1 with alpha 1, beta 0.1 and delta 0.3: its squared distances are not halved, as ours
        # are.
        loss={
            "name": "triplet",
            "class_weight": 1.0,
            "weight": 2 * 0.1,
            "distance": "squared_l2",
            "margin": 0.3,
        },
        **recipe,
    )
