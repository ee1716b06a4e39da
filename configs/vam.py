"""Visual attention model (Wang et al., VCIP 2017): attention gates the map.

    python train.py --config=configs/vam.py
    python train.py --config=configs/vam.py --config.model.fusion=product
    python train.py --config=configs/vam.py --config.model.nonshared=True

The default is VAM+ImgDrop, then VAM+Product and VAM+Nonshared. grnet_jax/models/vam.py says what is
our reading of its abstract. Data, backbone, optimizer and steps are GRNet's on
the same data set, the loss is triplets. Measured on the synthetic set: docs/reproduce.md.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config of the visual attention model for that data set."""
    small = dataset == "synthetic"
    return make_config(
        name=f"vam_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "vam",
            "backbone": common.backbone(dataset),
            # The map before the last: inception 4e of GoogLeNet; the last of the synthetic set's.
            "attention_stride": 0 if small else 16,
            "attention_dim": 64 if small else 256,
            "embedding_dim": 128 if small else 512,
        },
        # In-shop training images have no roles.
        sampler={"name": "items", "cross_domain": dataset != "deepfashion_inshop"},
        loss={"name": "triplet"},
        **common.recipe(dataset),
    )
