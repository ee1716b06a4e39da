"""A member of DREML (Xuan et al., Deep Randomized Ensembles for Metric Learning, 2018).

    python train.py --config=configs/dreml.py --workdir=runs/dreml_0
    python train.py --config=configs/dreml.py --config.loss.grouping=1 --workdir=runs/dreml_1
    python eval.py --config=configs/dreml.py --config.eval.ensemble=runs/dreml_0,runs/dreml_1

Every member learns its own random grouping of the training items into 192 meta-classes, by
proxy-NCA; the ensemble's descriptor is the members' side by side. The one that GRNet is compared
with has 48 of them. Data, backbone, optimiser and steps are GRNet's on the same data set.
"""

import ml_collections

from configs import embedding


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """One member on that data set."""
    config = embedding.get_config(dataset)
    config.name = f"dreml_{config.data.name}"
    # Photos of both domains alike, 64 of the demo's pairs' 32 x 2.
    config.data.sampler = "photos"
    config.train.batch_items *= 2
    config.model.pooling = "average"
    config.model.classes, config.model.proxies = 192, True
    config.loss.name, config.loss.label, config.loss.class_weight = "proxy_nca", "meta_class", 1.0
    # Ours: with a factor of 1 on distances of unit vectors no class can be likely among 192.
    config.loss.proxy_scale = 10.0
    return config
