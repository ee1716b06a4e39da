"""DARN (Huang et al., ICCV 2015): a stream for each kind of image.

    python train.py --config=configs/darn.py

A network for customer images and one for shop images, without shared weights, which learn
attributes and categories beside triplets of a customer image and shop images. Data, backbone,
optimizer and steps are FashionNet's on the same data set. grnet_jax/models/darn.py says what is our
reading of the paper.

Synthetic set: measured (benchmarks/results/reproduce_fashionnet_synthetic.json).
"""

import ml_collections

from configs import fashionnet
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns DARN's config for that data set."""
    return make_config(
        name=f"darn_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "darn",
            "backbone": {"name": "vgg_small" if dataset == "synthetic" else "vgg16"},
            **fashionnet.outputs(dataset),
        },
        sampler={"name": fashionnet.sampler(dataset)},
        # One phase, without landmarks.
        loss={
            "name": "fashionnet",
            "cycles": 1,
            "pose": {"fraction": 0.0},
            "recognition": {
                **{"fraction": 1.0, "landmarks": 0.0, "visibility": 0.0, "category": 1.0},
                **{"attributes": 10.0, "triplets": fashionnet.triplets(dataset, 1.0)},
            },
        },
        **fashionnet.recipe(dataset),
    )
