"""Descriptors for GRNet's shortlists: they learn from a trained GRNet, which stays as it is.

    python train.py --config=configs/grnet.py
    python train.py --config=configs/grnet_cascade.py
    python eval.py --config=configs/grnet_cascade.py --config.eval.shortlist=400

The descriptor is a projection of all regions, trained by the softmax over each customer photo's
inner products with the batch's shop photos. docs/performance.md has what it costs and saves.
"""

import ml_collections

from configs import grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """GRNet on that data set, from the run that `configs/grnet.py` makes."""
    config = grnet.get_config(dataset)
    config.train.init_from = f"runs/{config.name}"
    config.train.init_parts = "shared"
    config.name = f"grnet_cascade_{config.data.name}"
    config.model.descriptor_dim = 256
    # Nothing but the projection moves, BatchNorm's statistics neither; so no score is computed.
    config.optimizer.trainable = "projection"
    config.model.backbone.frozen_batch_norm = True
    config.loss.pair_weight = 0.0
    config.loss.descriptor_weight = 1.0
    # Validation measures the scores, which stay the same.
    config.train.eval_every = 0
    if config.model.backbone.name == "small":
        config.train.batch_items = 64
    return config
