"""The study of fashion image retrieval (Park et al., 2019): classes and triplets on one backbone.

python train.py --config=configs/fir.py                       the small backbone, synthetic set
python train.py --config=configs/fir.py:deepfashion_inshop --config.data.source=DOWNLOADED \\
  --config.model.backbone.name=seresnet50

OC is --config.loss.name=classification, OC+OS --config.loss.similarity=category, and OC+IS the
default. docs/losses.md has the equations, and what is our reading.
"""

import ml_collections

from configs import common, embedding

# Logits of the category head: DeepFashion has up to 50 categories, the synthetic set 13. Those that
# no photo has only learn to be low.
_CLASSES = {"synthetic": 13}
_MOST_CLASSES = 50


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """The study's recipe on that data set, or the demo's size and steps for sets without one."""
    config = embedding.get_config(dataset)
    dataset = config.data.name
    config.name = f"fir_{dataset}"
    # Whole photos, not cut to the garment's box.
    config.data.crop = "none"
    if dataset == "deepfashion_inshop":  # its training photos have no roles
        config.data.domains = config.loss.domains = "any"
    model, loss = config.model, config.loss
    # The descriptor is the backbone's mean, 2048-d of the ResNets, 1024-d of DenseNet-121.
    model.pooling, model.dim = "average", 0
    model.classes = _CLASSES.get(dataset, _MOST_CLASSES)
    # The relaxation stands before the category head alone. Its sizes are ours.
    model.relaxation.path = "classes"
    model.relaxation.channels = 64 if model.backbone.name == "small" else 512
    # Alpha 1 and beta 0.1.
    loss.class_weight, loss.weight = 1.0, 0.1
    loss.form, loss.margin = "euclidean", 0.3
    if model.backbone.name == "small":
        return config
    # Or "densenet121", "seresnet50", "seresnext50_32x4d".
    model.backbone.name = "resnet50"
    # Adam, which AdamW without decay is; the number of epochs is ours.
    config.optimizer = common.get_adamw()
    config.optimizer.learning_rate, config.optimizer.weight_decay = 1e-4, 0.0
    config.optimizer.clip_norm = 0.0
    config.optimizer.schedule, config.optimizer.decay_at = "step", (100.0, 150.0)
    config.train.epochs = 200.0
    return config
