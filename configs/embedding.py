"""One embedding an image: any backbone, triplet, AP or class loss.

python train.py --config=configs/embedding.py                    triplets on the synthetic set
python train.py --config=configs/embedding.py --config.loss.name=ap

Data, backbone, optimizer and steps are GRNet's on the same data set. Measured on the synthetic
set: docs/reproduce.md.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the embedding matcher's config for that data set."""
    return make_config(
        name=f"embedding_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "embedding",
            "backbone": common.backbone(dataset),
            "embedding_dim": 128 if dataset == "synthetic" else 512,
        },
        sampler={"name": "items"},
        loss={"name": "triplet"},
        **common.recipe(dataset),
    )
