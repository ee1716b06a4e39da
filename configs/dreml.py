"""A member of DREML, Deep Randomized Ensembles (Xuan et al., 2018).

    python train.py --config=configs/dreml.py --workdir=runs/dreml_0
    python train.py --config=configs/dreml.py --config.loss.group_seed=1 --workdir=runs/dreml_1
    python eval.py --workdir=runs/dreml_0,runs/dreml_1

Every member learns its own random grouping of the training items into 192 meta-classes, by
proxy-NCA; the ensemble's embedding is the members' side by side. The one that GRNet is compared
with has 48 of them. Data, backbone, optimizer and steps are GRNet's on the same data set. Measured
on the synthetic set: docs/reproduce.md.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns one member's config for that data set."""
    recipe = common.recipe(dataset)
    recipe["train"]["batch_size"] = 64  # images, as many as GRNet's 32 pairs have
    return make_config(
        name=f"dreml_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "embedding",
            "backbone": common.backbone(dataset),
            "pooling": "average",
            "embedding_dim": 128 if dataset == "synthetic" else 512,
            "num_classes": 192,
            "proxies": True,
        },
        sampler={"name": "images"},  # of both domains alike
        loss={
            "name": "proxy_nca",
            "label": "meta_class",
            "class_weight": 1.0,
            # Ours: with a factor of 1 on distances of unit vectors no class can be likely of 192.
            "proxy_scale": 10.0,
        },
        **recipe,
    )
