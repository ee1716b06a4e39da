"""FashionNet (Liu et al., DeepFashion, CVPR 2016).

python train.py --config=configs/fashionnet.py             the embedded synthetic set
python train.py --config=configs/fashionnet.py:deepfashion_attributes \
    --config.data.source=DOWNLOADED

Other data sets are named as for configs/grnet.py; those whose numbers of categories and attributes
are not the config's say so before training starts. Ablations: model.pooling, loss.PHASE.attributes
of 0 (landmarks without attributes), loss.most_frequent_attributes (FashionNet+100, +500).
"""

import ml_collections

from configs import common, grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """FashionNet on that data set: the paper's size, or a small one for sets without a recipe."""
    dataset = common.check_dataset(dataset, ("pairs", "photos"))
    config = ml_collections.ConfigDict()
    config.name = f"fashionnet_{dataset}"
    # Of the parameters, the order of the photos, the flips and what drops out.
    config.seed = 0
    config.data = common.get_data(dataset)
    config.data.sampler = "items"
    config.model = get_model()
    config.loss = get_loss()
    config.train = common.get_train()
    config.eval = common.get_eval(dataset)
    if dataset in ("deepfashion_attributes", "deepfashion_fine"):  # each photo an item of its own
        config.data.sampler = "photos"
        for phase in config.loss.phases:
            config.loss[phase].triplets = 0.0
    if dataset == "deepfashion_fine":
        config.model.attributes = 26
    if dataset not in ("synthetic", "manifest"):
        config.data.image_size = 224
        config.optimizer = common.get_sgd()
        config.train.eval_every = config.train.checkpoint_every = 5000
        return config
    config.model.backbone.name = "vgg_small"
    config.model.hidden = config.model.embedding = 256
    # The map before the last stage has 16x16 cells: a quarter of its side, as 7 of 28 are.
    config.model.landmark_window = 4
    config.model.dropout = 0.0
    config.model.categories, config.model.attributes = 13, 52
    config.optimizer = common.get_adamw()
    config.train.steps, config.train.epochs = 1500, 0.0
    config.train.eval_every = config.train.checkpoint_every = 500
    config.data.box_jitter = 0.1
    return config


def get_model() -> ml_collections.ConfigDict:
    """Fields of `config.model`, at the paper's size; widths it does not print are VGG-16's."""
    model = ml_collections.ConfigDict()
    model.name = "fashionnet"
    # Of the computation, "float32" or "bfloat16"; parameters and reductions are float32.
    model.dtype = "float32"
    model.backbone = grnet.get_model().backbone
    # "vgg16", "vgg16_bn" or "vgg_small": the last stage is doubled, the others are shared.
    model.backbone.name = "vgg16"
    # Outputs: how many categories and attributes the data set has, of attributes 0 where it has
    # none. DeepFashion's benchmark of categories and attributes has 50 and 1,000, its finer
    # annotations 26 attributes.
    model.categories = 50
    model.attributes = 1000
    # Width of each dense layer, and of the descriptor.
    model.hidden = 4096
    model.embedding = 4096
    # What the local branch pools around: "landmarks" as estimated, the points "given" by
    # data.points (joints, poselets, annotated landmarks), or "none": no local branch.
    model.pooling = "landmarks"
    # "given": how many points data.points has.
    model.given_points = 0
    # Side of the window around a landmark, in cells of the last shared map (28x28 for photos of 224
    # pixels), and what it is max-pooled to on each axis. Ours: the paper prints neither.
    model.landmark_window = 7
    model.landmark_bins = 2
    # Share of each dense layer's outputs that training leaves out.
    model.dropout = 0.5
    return model


def get_loss() -> ml_collections.ConfigDict:
    """Fields of `config.loss`; the paper has two phases in turn and prints no weights."""
    loss = ml_collections.ConfigDict()
    loss.name = "fashionnet"
    # How often the phases follow each other; their names in order, each a section below.
    loss.rounds = 2
    loss.phases = ("pose", "recognition")
    # Each phase: its share of a round's steps (1 in all), and the weights of its losses.
    loss.pose = _get_phase(share=0.3, main=("landmarks", "visibility"))
    loss.recognition = _get_phase(share=0.7, main=("category", "attributes", "triplets"))
    # Of the triplets, in squared distances of unit vectors (0 to 4).
    loss.margin = 0.3
    # Only the so many most frequent attributes are learned: FashionNet+100, +500; 0: all.
    loss.most_frequent_attributes = 0
    return loss


def _get_phase(share: float, main: tuple[str, ...]) -> ml_collections.ConfigDict:
    """A phase in which some losses weigh much and the others a tenth of that."""
    # Landmarks are shares of a photo's sides, whose squares are small; of attributes it is a mean
    # over all of them, whose two kinds are weighted below 1.
    most = {"landmarks": 100.0, "visibility": 1.0, "category": 1.0, "attributes": 10.0,
            "triplets": 1.0}  # fmt: skip
    phase = ml_collections.ConfigDict()
    phase.share = share
    for term, weight in most.items():
        phase[term] = weight if term in main else weight / 10
    return phase
