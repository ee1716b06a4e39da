"""Where to buy it (Kiapour et al., ICCV 2015): a metric on features.

python train.py --config=configs/embedding.py --config.loss.name=classification \\
  --config.loss.class_weight=1 --config.model.num_classes=13       features of categories, then
python train.py --config=configs/wtbi.py --config.train.init_from=runs/embedding_synthetic

The pre-trained backbone is frozen, and dense layers on both images' features side by side
learn whether they show one item. Loss, data and optimizer are GRNet's on the same data set.
grnet_jax/models/pair_metric.py says what is our reading of the paper. Not measured.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the metric's config for that data set; its features are another run's or a file's."""
    recipe, small = common.recipe(dataset), dataset == "synthetic"
    recipe["optimizer"]["trainable"] = "metric"
    if small:
        # The paper's features are a pre-trained network's: here of a run with the same backbone.
        recipe["train"] |= {"init_from": "runs/embedding_synthetic", "init_params": "backbone"}
    return make_config(
        name=f"wtbi_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "pair_metric",
            # FashionNet's; model.backbone.pretrained has to name its weights.
            "backbone": {**common.backbone(dataset, "vgg16"), "frozen_batch_norm": True},
            "hidden": (128, 128) if small else (512, 512),
            "score_bias_init": common.score_bias_init(dataset),
        },
        sampler={"name": "pairs"},
        loss=common.pair_loss(dataset),
        **recipe,
    )
