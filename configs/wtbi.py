"""Where to buy it (Kiapour et al., ICCV 2015), a baseline of DeepFashion: a metric on features.

python train.py --config=configs/embedding.py --config.loss.name=classification \\
  --config.loss.class_weight=1 --config.model.classes=13       features of categories, then
python train.py --config=configs/wtbi.py --config.train.init_from=runs/embedding_synthetic

The backbone stays as it is pre-trained, and dense layers on both photos' features side by side
learn whether they show one item. Loss, data and optimiser are GRNet's on the same data set.
grnet_jax/models/pair_metric.py says what is our reading of the paper.
"""

import ml_collections

from configs import grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """The metric on that data set; its features are another run's or a weights file's."""
    taken = ("dtype", "backbone", "score_bias_init")
    config = grnet.with_matcher(grnet.get_config(dataset), "pair_metric", taken)
    config.name = f"wtbi_{config.data.name}"
    # Widths of the metric's dense layers before the logit; ours.
    config.model.hidden = (512, 512)
    config.model.backbone.frozen_batch_norm = True
    config.optimizer.trainable = "metric"
    if config.model.backbone.name == "small":
        config.model.hidden = (128, 128)
        # The paper's features are a pre-trained network's: here of a run with the same backbone.
        config.train.init_from = "runs/embedding_synthetic"
        config.train.init_parts = "backbone"
    else:
        # FashionNet's; model.backbone.pretrained has to name its weights.
        config.model.backbone.name = "vgg16"
    return config
