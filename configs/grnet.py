"""GRNet (Kuang et al., ICCV 2019).

python train.py --config=configs/grnet.py                  the embedded synthetic set
python train.py --config=configs/grnet.py:manifest --config.data.manifest=photos.csv
python train.py --config=configs/grnet.py:deepfashion_c2s --config.data.source=DOWNLOADED

The last, and :deepfashion_inshop, :deepfashion2, :street2shop and :findfashion, take the paper's
recipe.
"""

import ml_collections

from configs import common

_PAPER_SCALES = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (3, 3))


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """GRNet on that data set: the paper's recipe, or the demo's size for sets without one."""
    dataset = common.check_dataset(dataset)
    config = ml_collections.ConfigDict()
    config.name = f"grnet_{dataset}"
    # Of the parameters, the order of the pairs and the flips.
    config.seed = 0
    config.data = common.get_data(dataset)
    config.model = get_model()
    config.loss = get_loss()
    config.train = common.get_train()
    config.eval = common.get_eval(dataset)
    config.eval.calibration = True
    if dataset not in ("synthetic", "manifest"):
        config.data.image_size = 224
        config.optimizer = common.get_sgd()
        config.train.eval_every = config.train.checkpoint_every = 5000
        return config
    config.model.backbone.name = "small"
    config.model.node_dim = 64
    config.model.reasoning_dim = 32
    config.optimizer = common.get_adamw()
    config.train.steps, config.train.epochs = 1000, 0.0
    config.train.eval_every = config.train.checkpoint_every = 250
    # Not the paper's: from scratch, with few steps and items, these learn faster and overfit less.
    config.loss.query_softmax_weight = 1.0
    config.model.score_bias_init = -3.43
    config.data.box_jitter = 0.1
    return config


def get_model() -> ml_collections.ConfigDict:
    """Fields of `config.model`, at the paper's values."""
    model = ml_collections.ConfigDict()
    model.name = "grnet"
    # Of the computation, "float32" or "bfloat16"; parameters and reductions are float32.
    model.dtype = "float32"
    model.backbone = ml_collections.ConfigDict()
    # One of grnet_jax.backbones.BACKBONES; "small" is for two CPU cores.
    model.backbone.name = "googlenet"
    # Weights to start from, a file that `python -m grnet_jax.backbones.convert` wrote; "": none.
    model.backbone.pretrained = ""
    # How photos are normalised and resized, one of grnet_jax.backbones.PREPROCESSING; "": as
    # the backbone's ImageNet weights expect.
    model.backbone.preprocessing = ""
    # Whether BatchNorm keeps its statistics while training.
    model.backbone.frozen_batch_norm = False
    # The pyramid, (rows, columns); (1, 1) first.
    model.scales = _PAPER_SCALES
    # Dimensions of the descriptor, a projection of all regions side by side that
    # loss.descriptor_weight trains, and which leaves the regions as they are; 0: the whole photo's
    # region itself.
    model.descriptor_dim = 0
    # D, dimensions of a similarity node.
    model.node_dim = 512
    # C', dimensions inside the reasoning.
    model.reasoning_dim = 128
    # T, layers of reasoning; 0 scores the global similarity alone.
    model.layers = 3
    # Edges within a scale, and between local scales.
    model.intra_scale = True
    model.inter_scale = True
    # Not the paper's: nodes carry the length of the difference as one more dimension; a learned
    # factor on the edges' affinities that starts there (0: none).
    model.norm_feature = False
    model.edge_scale_init = 0.0
    # Gallery photos compared at once with all queries; 0 for all. Training computes a chunk's
    # nodes twice instead of keeping them, so that large batches fit.
    model.gallery_chunk = 0
    # Where the score's bias starts; the paper: 0. With 32 shop photos to each customer photo,
    # -3.43 (-log 31) spares the first steps from learning how rare a match is.
    model.score_bias_init = 0.0
    # Edges computed anew from every layer's input.
    model.recompute_edges = False
    return model


def get_loss() -> ml_collections.ConfigDict:
    """Fields of `config.loss`."""
    loss = ml_collections.ConfigDict()
    # Cross-entropy over all customer x shop pairs of the batch.
    loss.name = "pairs"
    # Weight of it and of the softmax over scores; 0 scores no pair, and descriptors learn alone.
    loss.pair_weight = 1.0
    # Leave out negatives whose shop photo is byte for byte that of the customer's item in the
    # batch: catalogues list one photo under several items.
    loss.leave_out_identical = False
    # Weight of the softmax over each customer photo's scores, beside the pair loss; the paper: 0.
    loss.query_softmax_weight = 0.0
    # Weight of the same softmax over the inner products of descriptors, divided by the temperature:
    # what makes them fit for the first stage of eval.shortlist; the paper: 0.
    loss.descriptor_weight = 0.0
    loss.descriptor_temperature = 0.05
    return loss
