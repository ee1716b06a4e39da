"""One descriptor a photo: any backbone, generalised-mean pooling, triplet, AP or class loss.

python train.py --config=configs/embedding.py                    triplets on the synthetic set
python train.py --config=configs/embedding.py --config.loss.name=ap

Data, backbone, optimiser and steps are GRNet's on the same data set.
"""

import ml_collections

from configs import grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """The embedding matcher on that data set."""
    config = grnet.get_config(dataset)
    config.name = f"embedding_{config.data.name}"
    config.data.sampler = "items"
    config.eval.calibration = False
    backbone = config.model.backbone
    config.model = get_model()
    config.model.backbone = backbone
    if backbone.name == "small":
        config.model.dim = 128
    config.loss = get_loss()
    return config


def get_model() -> ml_collections.ConfigDict:
    """Fields of `config.model` beside the backbone's."""
    model = ml_collections.ConfigDict()
    model.name = "embedding"
    # Of the computation, "float32" or "bfloat16"; parameters and reductions are float32.
    model.dtype = "float32"
    # "gem" (generalised mean, its power learned from 3), "average" or "max".
    model.pooling = "gem"
    # Dimensions of the descriptor; 0: the pooled vector itself.
    model.dim = 512
    # Logits of the class head, at least as many as the training set has categories or items, as
    # loss.label says; 0: no head.
    model.classes = 0
    # The class head is a learned unit vector a class, to which descriptors are near or far; else a
    # linear layer on the pooled vector.
    model.proxies = False
    # Park et al.'s feature relaxation after the backbone: channels of its two convolutions (0:
    # none), side of their windows, dropout rate. The three values are ours. Before the pooling, and
    # so before "all", or before the "classes" alone, so that the descriptor is the map's own.
    model.relaxation = ml_collections.ConfigDict()
    model.relaxation.channels = 0
    model.relaxation.kernel = 1
    model.relaxation.dropout = 0.5
    model.relaxation.path = "all"
    return model


def get_loss() -> ml_collections.ConfigDict:
    """Fields of `config.loss`; docs/losses.md has the equations."""
    loss = ml_collections.ConfigDict()
    # "triplet" or "ap" on batches of items, or of classes alone "classification" or, with
    # model.proxies, "proxy_nca".
    loss.name = "triplet"
    # "both": customer photos against shop photos; "any": all photos against all others.
    loss.domains = "both"
    # What makes two photos alike for the triplet or AP loss: the same "item" or "category".
    loss.similarity = "item"
    # "triplet": m, in the distance's unit; "squared" or "euclidean" distances; "all", "semi_hard"
    # or "hardest" triplets; the mean over all "triplets" that count or the "active" ones.
    loss.margin = 0.3
    loss.form = "squared"
    loss.miner = "all"
    loss.average = "triplets"
    # "ap": bins of the histogram over cosines.
    loss.bins = 20
    # What the class head tells apart: "category" or "item" of the training photos, or "meta_class":
    # every item belongs at random to one of model.classes.
    loss.label = "category"
    # Seed of the meta-classes.
    loss.grouping = 0
    # Weights of the triplet or AP loss, and of the class head's cross-entropy, which needs
    # model.classes. Park et al.: 0.1 and 1.
    loss.weight = 1.0
    loss.class_weight = 0.0
    # Share of a photo's label that all labels have evenly.
    loss.label_smoothing = 0.0
    # "proxy_nca": the factor on the squared distances; its paper: 1.
    loss.proxy_scale = 1.0
    return loss
