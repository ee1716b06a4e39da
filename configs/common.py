"""The fields that every system shares, and the data sets that every system takes."""

import ml_collections

from input_pipeline.datasets.registry import REGISTRY


def name_datasets(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The data sets of these kinds (`Registered.kind`)."""
    return tuple(name for name, entry in REGISTRY.items() if entry.kind in kinds)


DATASETS = name_datasets(("pairs",))


def check_dataset(dataset: str, kinds: tuple[str, ...] = ("pairs",)) -> str:
    """The data set that the config's argument names; the embedded one by default.

    Args:
      dataset: its name, or "".
      kinds: of data sets that the config takes.

    Raises:
      ValueError: naming the data sets there are.
    """
    if not dataset:
        return "synthetic"
    known = name_datasets(kinds)
    if dataset not in known:
        raise ValueError(
            f"--config=...:{dataset}: unknown data set; the argument is one of {list(known)}"
        )
    return dataset


def get_data(dataset: str) -> ml_collections.ConfigDict:
    """Fields of `config.data`."""
    data = ml_collections.ConfigDict()
    data.name = dataset
    # Folder or bucket where prepared data sets lie.
    data.dir = "data"
    # Embedded set: "small" (the demo), "tiny" (tests); training items, 0 for the size's own
    # number, and as many as a million; seed of the drawing.
    data.size = "small"
    data.train_items = 0
    data.seed = 0
    # Your own photos, or FindFashion: path of the CSV.
    data.manifest = ""
    # The other benchmarks: the folder you downloaded (docs/datasets.md).
    data.source = ""
    # What to do with wrong rows of the CSV or of the annotation files: "error" names them all and
    # stops, "skip" leaves them out and counts them, kinds of problems joined by commas leave out
    # those; "": the kinds that the data set is known to have.
    data.on_bad_row = ""
    # Largest photo accepted, in pixels.
    data.max_pixels = 50_000_000
    # Larger photos are stored with this longer side, in pixels; 0: as they are.
    data.long_side = 0
    # Apache Beam's runner, as "DirectRunner", and its flags, joined by commas, to write the records
    # with; "": without Beam.
    data.beam_runner = ""
    data.beam_options = ""
    # Side of the square photos that the model sees, in pixels.
    data.image_size = 64
    # "box": cut to the garment's box; "detected": to the box that data.detections has for the
    # photo; "none": the whole photo; "center": its central square. shop_crop is the shop photos'
    # where it is not "".
    data.crop = "box"
    data.shop_crop = ""
    # Of each cut take a square of its shorter side, the central one, in training anywhere along the
    # longer side, so that photos keep their aspect ratio; False: the cut is stretched to a square.
    data.square = False
    # A detector's boxes: CSV with image, x_1, y_1, x_2, y_2 and, where there are several, score.
    data.detections = ""
    # Points of the photos to pool around (model.pooling "given"), such as joints: CSV with image
    # and, for each point, x_NAME and y_NAME in pixels of the upright photo; "landmarks": those that
    # the photos are annotated with; "": none.
    data.points = ""
    # "bilinear" or "bicubic"; and the central square's side, as a share of the photo's shorter
    # side. "" and 0: as model.backbone.preprocessing says.
    data.interpolation = ""
    data.center_share = 0.0
    # Random horizontal flips in training.
    data.flip = True
    # In training every edge of a photo's cut moves by up to this share of its side; the paper: 0.
    data.box_jitter = 0.0
    # In training photos are tilted by up to so many degrees and sheared by up to this share;
    # brightness, contrast and saturation change by up to this share each, and hues by up to this
    # share of the colour circle.
    data.tilt = 0.0
    data.skew = 0.0
    data.colour = 0.0
    data.hue = 0.0
    # What a batch holds: "pairs" (a customer and a shop photo of an item), "items" (K photos of
    # each) or "photos".
    data.sampler = "pairs"
    # "pairs": what an epoch goes once over, "pairs" or "items".
    data.epoch = "pairs"
    # Detection: objects a photo that a batch has room for, 0 for the most that a photo of the split
    # has; side of an object's mask in pixels, 0 for boxes alone.
    data.max_objects = 0
    data.mask_size = 28
    # "items": K, and whether half of them are customer photos ("both" domains) or "any" are taken.
    data.photos_per_item = 2
    data.domains = "both"
    return data


def get_train() -> ml_collections.ConfigDict:
    """Fields of `config.train`."""
    train = ml_collections.ConfigDict()
    # Pairs, items or photos a batch, as data.sampler says; all devices together.
    train.batch_items = 32
    # Photos embedded at once, for batches larger than memory: a divisor of the photos of a batch,
    # in whole items, best as many on every device; 0: all. BatchNorm that is not frozen normalises
    # each chunk by itself.
    train.embed_chunk = 0
    # Length: steps, or epochs; the other is 0.
    train.steps = 0
    train.epochs = 60.0
    # Start from the parameters of this run's best checkpoint (a workdir); "" starts afresh.
    train.init_from = ""
    # What is taken from there: "all", of a run of the same model; the "backbone" of any run with
    # the same one; the parts "shared" by both models, while those that it lacks start afresh; or of
    # the shared parts those "fitting", while heads of another number of labels start afresh too.
    train.init_parts = "all"
    # Every so many steps: write metrics; evaluate on val (0: never); save a checkpoint.
    train.log_every = 20
    train.eval_every = 500
    train.checkpoint_every = 500
    return train


def get_eval(dataset: str) -> ml_collections.ConfigDict:
    """Fields of `config.eval`: the protocol is that of the data set's benchmark."""
    evaluation = ml_collections.ConfigDict()
    # Split whose customer photos are eval.py's queries.
    evaluation.split = "test"
    # Splits whose shop photos are its gallery, joined by "+", or "all"; "": the split's own.
    evaluation.gallery = ""
    # So many queries, drawn among those with a match by this seed; 0: all.
    evaluation.queries = 0
    evaluation.query_seed = 0
    # Rank each query among the shop photos of its own category alone.
    evaluation.same_category = False
    # Report a second time with gallery photos that are byte for byte a match's as matches:
    # catalogues list one photo under several items.
    evaluation.count_identical = False
    # Photos embedded at once; queries and gallery photos scored at once. All devices together.
    evaluation.batch = 64
    evaluation.query_block = 32
    evaluation.gallery_block = 64
    # Scores are logits of "same item": measure how well their sigmoid is calibrated, on all pairs
    # and on each query's best match.
    evaluation.calibration = False
    # Queries on the devices while the gallery passes by, which is read once for each so many.
    evaluation.held_queries = 1024
    # Folder or bucket where eval.py stores features and what it has counted, so that the same
    # command goes on after a kill and memory does not grow with the gallery; one for each model and
    # gallery. "": all in memory, for galleries that fit.
    evaluation.store = ""
    # "float32", or half the size: "float16" or "bfloat16"; scores are computed as ever.
    evaluation.store_dtype = "float32"
    # What scoring's products are made in, "float32" or "bfloat16" ("": model.dtype); gallery photos
    # that a query is compared with at a time (0: as many as suit the device); what the gallery's
    # regions are kept in, once they are read ("": as they are computed).
    evaluation.score_dtype = ""
    evaluation.score_tile = 0
    evaluation.gallery_dtype = ""
    # Features averaged over each photo and its mirror image; descriptors over five crops (corners
    # and centre), squares of this share of the side, 0: of the whole photo.
    evaluation.flip_average = False
    evaluation.five_crop_share = 0.0
    # Workdirs of trained runs, joined by commas, whose descriptors are put side by side, instead of
    # this config's own run; "": none.
    evaluation.ensemble = ""
    # What is done to descriptors, in this order, for matchers that score them (docs/evaluation.md).
    # PCA whitening, learned on the "gallery" or on the photos of a split, as "train" ("": none);
    # dimensions kept (0: all in which they vary).
    evaluation.whitening = ""
    evaluation.whitening_dim = 0
    # Gallery photos that each gallery photo takes in, and alpha: they weigh similarity ** alpha.
    evaluation.database_augmentation = 0
    evaluation.database_augmentation_alpha = 0.0
    # Gallery photos that each query takes in (0: none), and alpha.
    evaluation.query_expansion = 0
    evaluation.query_expansion_alpha = 0.0
    # Score each query against so many gallery photos alone, those whose descriptors' inner products
    # with its own are highest; the others stand behind them in that order. 0: score all pairs.
    evaluation.shortlist = 0
    # Share of those photos that choosing them aims at: 1.0 finds them all, less may be faster on
    # accelerators.
    evaluation.shortlist_recall = 1.0
    # Gallery photos kept for every query, best first, for the result page.
    evaluation.keep_top = 10
    if dataset == "street2shop":  # Kiapour et al.: per category, with all its shop photos
        evaluation.gallery = "all"
        evaluation.same_category = True
    return evaluation


def get_sgd() -> ml_collections.ConfigDict:
    """The paper's optimiser: momentum, the rate divided by 10 every 20 epochs."""
    optimizer = _get_optimizer()
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.01
    optimizer.weight_decay = 5e-4
    optimizer.schedule = "step"
    return optimizer


def get_adamw() -> ml_collections.ConfigDict:
    """For training from scratch: AdamW with warm-up and cosine."""
    optimizer = _get_optimizer()
    optimizer.name = "adamw"
    optimizer.learning_rate = 1e-3
    optimizer.weight_decay = 0.05
    optimizer.schedule = "cosine"
    optimizer.clip_norm = 1.0
    return optimizer


def _get_optimizer() -> ml_collections.ConfigDict:
    optimizer = ml_collections.ConfigDict()
    # "sgd" or "adamw".
    optimizer.name = ""
    # Highest learning rate.
    optimizer.learning_rate = 0.0
    # "sgd": L2 on every parameter; "adamw": decoupled, matrices only.
    optimizer.weight_decay = 0.0
    # "sgd" only.
    optimizer.momentum = 0.9
    # "step" or "cosine".
    optimizer.schedule = ""
    # "cosine": linear rise over so many steps.
    optimizer.warmup_steps = 100
    # "step": times decay_factor every so many epochs, or after each of the epochs of decay_at
    # alone, where there are any.
    optimizer.decay_epochs = 20.0
    optimizer.decay_at = ()
    optimizer.decay_factor = 0.1
    # Largest global gradient norm; 0 for no clipping.
    optimizer.clip_norm = 0.0
    # Parts of the model that learn, as "projection" or "graph,backbone/conv1"; "": all of it.
    optimizer.trainable = ""
    return optimizer
