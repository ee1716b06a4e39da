"""Kronecker-product matching (Shen et al., CVPR 2018), the pairwise matcher of GRNet's tables.

    python train.py --config=configs/kpm.py

All else, backbone, loss, optimiser and steps, is GRNet's on the same data set.
grnet_jax/models/kpm.py says what is our reading of the paper.
"""

import ml_collections

from configs import grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Kronecker-product matching on that data set."""
    config = grnet.get_config(dataset)
    config.name = f"kpm_{config.data.name}"
    of_grnet = config.model
    config.model = ml_collections.ConfigDict()
    config.model.name = "kpm"
    # As GRNet's: see configs/grnet.py.
    for field in ("dtype", "backbone", "gallery_chunk", "score_bias_init"):
        config.model[field] = of_grnet[field]
    # Scales of the pyramid, (rows, columns), (1, 1) first, each matched within itself; (): every
    # cell of the map with every cell.
    config.model.scales = ()
    # Factor on the cosines in the softmax over a gallery photo's cells; the authors' code: 1, with
    # which all cells weigh nearly the same where features are positive.
    config.model.match_scale = 1.0
    # Self-residual attention: cells of the query count by how far they differ from what the rest
    # of their photo shows.
    config.model.self_attention = True
    # Square differences before averaging them over the cells, not after as the authors' code does.
    config.model.square_first = False
    if dataset in ("", "synthetic", "manifest"):
        # Not the paper's: with few steps matches must be sharp from the start.
        config.model.match_scale = 10.0
        config.model.square_first = True
    return config
