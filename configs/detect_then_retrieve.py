"""Retrieval of "A Detect-Then-Retrieve Model ..." (Kucer and Murray, 2019), by triplets or by AP.

python train.py --config=configs/detect_then_retrieve.py              the synthetic set, triplets
python train.py --config=configs/detect_then_retrieve.py:synthetic,ap
python train.py --config=configs/detect_then_retrieve.py:street2shop,ap --config.data.source=...

The argument is DATASET[,LOSS]: "triplet", "ap", or "classification" of the training items, whose
backbone the other two start from (train.init_from). docs/losses.md has the equations, and what is
our reading.
"""

import ml_collections

from configs import common, embedding

LOSSES = ("triplet", "ap", "classification")
# Training items of the synthetic set's two sizes; of other sets the class head's width is given.
_ITEMS = {"synthetic": 1600}


def get_config(argument: str = "synthetic") -> ml_collections.ConfigDict:
    """The recipe on that data set, or the demo's size and steps for sets without one."""
    dataset, _, loss = argument.partition(",")
    loss = loss or "triplet"
    if loss not in LOSSES:
        raise ValueError(
            f"--config=...:{argument}: unknown loss; behind the comma is one of {list(LOSSES)}"
        )
    config = embedding.get_config(dataset)
    dataset = config.data.name
    config.name = f"detect_then_retrieve_{loss}_{dataset}"
    small = config.model.backbone.name == "small"
    # Queries are cut to their box, the gallery to nothing; with a detector's boxes
    # --config.data.shop_crop=detected --config.data.detections=boxes.csv.
    config.data.crop, config.data.shop_crop = "box", "none"
    if dataset == "deepfashion_inshop":  # its training photos have no roles
        config.data.domains = config.loss.domains = "any"
    # Colour distortion, tilt, skew and crop are the paper's, their sizes ours.
    config.data.colour, config.data.hue = 0.2, 0.03
    config.data.tilt, config.data.skew, config.data.box_jitter = 10.0, 0.1, 0.1
    if not small:
        _set_paper_size(config)
    config.loss.name = loss
    _LOSS_FIELDS[loss](config, small)
    return config


def _set_paper_size(config: ml_collections.ConfigDict) -> None:
    """ResNet-50; the paper's optimiser and steps are not known, these are ours."""
    config.model.backbone.name = "resnet50"
    config.model.dim = 2048
    config.optimizer = common.get_adamw()
    config.optimizer.learning_rate, config.optimizer.weight_decay = 1e-5, 0.0
    config.train.epochs = 30.0


def _set_triplet(config: ml_collections.ConfigDict, small: bool) -> None:
    """The squared form, on photos whose largest side is 800 pixels; margin and mining are ours."""
    config.loss.form, config.loss.margin, config.loss.miner = "squared", 0.1, "hardest"
    if not small:
        config.data.long_side = config.data.image_size = 800
        _set_chunks(config)


def _set_ap(config: ml_collections.ConfigDict, small: bool) -> None:
    """Large batches, on squares of 800 pixels of photos whose smallest side is that."""
    config.loss.bins = 20
    config.data.square = True
    config.train.batch_items = 128
    if not small:
        config.data.image_size = 800
        config.train.batch_items = 512
        _set_chunks(config)


def _set_classification(config: ml_collections.ConfigDict, small: bool) -> None:
    """Cross-entropy of the training items alone, on all photos."""
    config.data.sampler = "photos"
    config.loss.label, config.loss.class_weight = "item", 1.0
    config.model.classes = _ITEMS.get(config.data.name, 0)
    config.train.batch_items = 64
    # Validation ranks photos; of a run that others start from the last step counts.
    config.train.eval_every = 0
    if not small:
        config.optimizer.learning_rate = 1e-4


def _set_chunks(config: ml_collections.ConfigDict) -> None:
    """The large batch's gradient is exact where BatchNorm keeps its statistics."""
    config.model.backbone.frozen_batch_norm = True
    config.train.embed_chunk = 16


_LOSS_FIELDS = {"triplet": _set_triplet, "ap": _set_ap, "classification": _set_classification}
