"""GRNet on the patch grid of a DINOv2 transformer: the modern strong baseline.

python train.py --config=configs/grnet_dinov2.py:manifest --config.dataset.source=photos.csv \\
  --config.model.backbone.pretrained=model.grnet.safetensors

With --config.model.layers=0 --config.model.scales="((1, 1),)" the transformer's plain global
similarity. Without pretrained weights it starts from scratch, which no small data set pays for. Not
measured.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config of GRNet on a DINOv2 transformer, for that data set."""
    recipe = common.recipe(dataset)
    recipe["image"]["size"] = 224  # a multiple of the patch's 14 pixels: 16x16 cells
    # Ours: a hundredth of what the synthetic set's recipe takes from scratch.
    recipe["optimizer"] = {
        "name": "adamw",
        "learning_rate": 1e-5,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "clip_norm": 1.0,
    }
    return make_config(
        name=f"grnet_dinov2_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "grnet",
            "backbone": {"name": "vit_small_patch14_dinov2"},
            "node_dim": 64 if dataset == "synthetic" else 512,
            "reasoning_dim": 32 if dataset == "synthetic" else 128,
            "score_bias_init": common.score_bias_init(dataset),
        },
        sampler={"name": "pairs"},
        loss=common.pair_loss(dataset),
        **recipe,
    )
