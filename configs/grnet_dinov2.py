"""GRNet on the patch grid of a DINOv2 transformer: the modern strong baseline.

python train.py --config=configs/grnet_dinov2.py:manifest --config.data.manifest=photos.csv \\
  --config.model.backbone.pretrained=model.grnet.safetensors

With --config.model.layers=0 --config.model.scales="((1, 1),)" the transformer's plain global
similarity. Without pretrained weights it starts from scratch, which no small data set pays for.
"""

import ml_collections

from configs import common, grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """GRNet on a DINOv2 transformer, on that data set."""
    config = grnet.get_config(dataset)
    config.name = f"grnet_dinov2_{config.data.name}"
    # A multiple of the patch's 14 pixels: 16x16 cells.
    config.data.image_size = 224
    config.model.backbone.name = "vit_small_patch14_dinov2"
    config.optimizer = common.get_adamw()
    # Ours: a hundredth of what the embedded set's recipe takes from scratch.
    config.optimizer.learning_rate = 1e-5
    return config
