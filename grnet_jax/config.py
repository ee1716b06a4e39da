"""The whole config, typed: parsed once at the entry; everything behind takes its sections.

`ml_collections` stays the outside: config files return a `ConfigDict`, whose fields are flags
(`--config.SECTION.FIELD=VALUE`). `python -m grnet_jax.config` prints every field.

A matcher's section is the class `Config` of its file in `grnet_jax/models/`, a loss's that of its
file in `grnet_jax/training/objectives/`; both are found by the section's `name`.
"""

import difflib
import functools
import importlib
import operator
import os
import pkgutil
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import ml_collections
import pydantic

from grnet_jax.backbones.preprocessing import choose_preprocessing, find_preprocessing
from grnet_jax.errors import ArgumentParser, InputError
from input_pipeline import (
    AugmentConfig,
    DatasetConfig,
    ImageConfig,
    PathText,
    SamplerConfig,
    Section,
    benchmark_protocol,
    field,
)

_PLUGINS = {"model": "grnet_jax.models", "loss": "grnet_jax.training.objectives"}
_PLUGIN_AFFECTS = ("parameters", "features", "scores")


class OptimizerConfig(Section):
    """How parameters are updated."""

    name: Literal["sgd", "adamw"] = field("sgd", "sgd (with momentum) or adamw", "parameters")
    learning_rate: float = field(0.01, "the highest one", "parameters", gt=0)
    weight_decay: float = field(
        5e-4, "sgd: L2 on every parameter; adamw: decoupled, matrices only", "parameters", ge=0
    )
    momentum: float = field(0.9, "of sgd", "parameters", ge=0, lt=1)
    schedule: Literal["step", "cosine"] = field(
        "step", "step: falls at lr_milestones; cosine: warm-up, then to 0", "parameters"
    )
    warmup_steps: int = field(100, "cosine: linear rise over so many steps", "parameters", ge=0)
    lr_milestones: tuple[float, ...] = field(
        (20.0, 40.0), "step: epochs after which the rate is multiplied by lr_factor", "parameters"
    )
    lr_factor: float = field(0.1, "step: see lr_milestones", "parameters", gt=0, le=1)
    clip_norm: float = field(
        0.0, "largest global gradient norm; 0: no clipping", "parameters", ge=0
    )
    trainable: str = field(
        "",
        "parts of the model that learn, joined by commas, as graph,backbone/conv1; those that "
        "do not with - in front of each, as -backbone; empty: all",
        "parameters",
    )
    ema_decay: float = field(
        0.0,
        "validation, the choice of the best checkpoint and all that loads the run take the "
        "parameters' exponential moving average, of which an update keeps this share; 0: their "
        "last values",
        "parameters",
        ge=0,
        lt=1,
    )

    @pydantic.field_validator("lr_milestones")
    @classmethod
    def _rise(cls, epochs: tuple[float, ...]) -> tuple[float, ...]:
        if any(b <= a for a, b in zip((0.0, *epochs), epochs, strict=False)):
            raise ValueError("expected rising epochs above 0")
        return epochs


class TrainConfig(Section):
    """Length, batches and start of training."""

    batch_size: int = field(
        32, "pairs, items or images a batch, as sampler.name says; all devices", "parameters", ge=1
    )
    microbatch_size: int = field(
        0,
        "images embedded at once, for batches larger than memory: a divisor of the batch's images, "
        "in whole items; 0: all. BatchNorm that is not frozen normalizes each by itself",
        "parameters",
        ge=0,
    )
    accumulate_steps: int = field(
        1,
        "gradient accumulation: one update from the mean gradient of so many steps; each has "
        "its own batch, and a loss over pairs or triplets sees those of one batch",
        "parameters",
        ge=1,
    )
    cached_views: int = field(
        0,
        "so many random crops and changes of each image are drawn once, and what the frozen "
        "layers (optimizer.trainable) make of them is computed once and kept beside the data set; "
        "0: drawn and computed in every step",
        "parameters",
        ge=0,
    )
    steps: int = field(0, "length in steps; wins over epochs", "parameters", ge=0)
    epochs: float = field(60.0, "length in epochs, where steps is 0", "parameters", ge=0)
    init_from: PathText = field("", "start from the best checkpoint of the run in this workdir")
    init_params: Literal["all", "backbone", "matching_names", "matching_shapes"] = field(
        "all",
        "what is taken from there: all; the backbone; parts of the same name; of these the parts "
        "of the same shapes",
    )
    log_every: int = field(20, "steps between metrics", ge=1)
    eval_every: int = field(500, "steps between evaluations on val; 0: never", ge=0)
    checkpoint_every: int = field(500, "steps between checkpoints", ge=1)
    model_parallel: int = field(
        1,
        "devices that share one copy of the parameters and of the optimizer's state, for models "
        "that are too large for each device to hold its own; a divisor of their number",
        ge=1,
    )
    wandb: str = field(
        "", "project of Weights & Biases that metrics go to, beside TensorBoard; empty: none"
    )
    profile: tuple[int, ...] = field(
        (), "(N, M): a profiler's trace of steps N to M goes to profile/ in the workdir; (): none"
    )

    @pydantic.field_validator("profile")
    @classmethod
    def _first_and_last(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if steps and (len(steps) != 2 or not 1 <= steps[0] <= steps[1]):
            raise ValueError("expected (N, M), the first and the last step, or ()")
        return steps

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if not self.steps and not self.epochs:
            raise ValueError("steps, epochs: expected one of them above 0")
        if self.init_params != "all" and not self.init_from:
            raise ValueError("init_params: changes nothing without init_from")
        return self


def drawn_queries(text: str) -> tuple[int, int] | None:
    """Returns how many queries `eval.protocol.queries` draws, 0 for all, and the drawing's seed.

    None where it is a file's path.
    """
    found = re.fullmatch(r"(?:([0-9]+)(?:,([0-9]+))?)?", text)
    return None if found is None else (int(found[1] or 0), int(found[2] or 0))


def _check_queries(value: Any) -> str:
    """Returns which queries, as text; numbers within their limits."""
    text = str(value)
    for number, limit in zip(drawn_queries(text) or (), (2**31, 2**32), strict=False):
        if number >= limit:
            raise ValueError(f"expected numbers below 2**31, with a seed below 2**32, got {number}")
    return text


QueriesText = Annotated[PathText, pydantic.BeforeValidator(_check_queries)]


class ProtocolConfig(Section):
    """Which queries are searched for in which gallery."""

    split: str = field("test", "split whose customer images are the queries")
    gallery: str = field(
        "", 'splits whose shop images are the gallery, joined by "+", or "all"; empty: the split'
    )
    queries: QueriesText = field(
        "",
        "a number, drawn among those with a match, with a seed of the drawing as 500,1; or a file "
        "that names them, one a line, IMAGE or IMAGE,ITEM; empty: all",
    )
    same_category: bool = field(False, "rank each query among its own category's images alone")
    count_identical: bool = field(
        False, "report a second time with byte-identical copies of a match as matches"
    )
    rank_items: Literal["", "best_image", "centroid"] = field(
        "",
        "report a second time with items ranked in the place of images: by their best image's "
        "score, or by their images' mean embedding",
    )
    val_queries: int = field(
        1000,
        "queries drawn for validation while training, in a gallery of ten times as many; 0: all",
        ge=0,
    )


_DTYPES = Literal["", "float32", "bfloat16", "float64"]


class SearchConfig(Section):
    """How features are made, stored and searched."""

    store: PathText = field(
        "",
        "folder or bucket for features, so that memory does not grow and the same command goes on "
        "after a kill; empty: in memory",
    )
    store_dtype: Literal["float32", "float16", "bfloat16"] = field(
        "float32", "of stored features", "scores"
    )
    score_dtype: _DTYPES = field("", "of scoring's products; empty: model.dtype", "scores")
    shortlist: int = field(
        0,
        "score each query with so many images alone, those nearest by embedding; the rest stands "
        "behind them in that order; 0: with all",
        "scores",
        ge=0,
    )
    shortlist_recall: float = field(
        1.0, "share of those images that choosing aims at; less may be faster", "scores", gt=0, le=1
    )
    top_k: int = field(50, "best images kept for each query", ge=1)
    flip_average: bool = field(False, "average features with the mirrored image's", "features")
    whitening: str = field(
        "", "PCA whitening of embeddings, learned on the gallery or a split; empty: none", "scores"
    )
    whitening_dim: int = field(0, "dimensions kept; 0: all", "scores", ge=0)
    query_expansion: int = field(
        0, "gallery embeddings that a query is averaged with; 0: none", "scores", ge=0
    )
    query_expansion_alpha: float = field(
        0.0, "they weigh similarity ** alpha, the query 1", "scores", ge=0
    )

    @pydantic.model_validator(mode="after")
    def _effective(self) -> "SearchConfig":
        for name, owner in (
            ("shortlist_recall", "shortlist"),
            ("whitening_dim", "whitening"),
            ("query_expansion_alpha", "query_expansion"),
        ):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and not getattr(self, owner):
                raise ValueError(f"{name}={value}: changes nothing without {owner}")
        return self


class EvalConfig(Section):
    """Evaluation."""

    batch_size: int = field(64, "images embedded at once, all devices together", ge=1)
    protocol: ProtocolConfig = ProtocolConfig()
    search: SearchConfig = SearchConfig()


class Config(Section):
    """A run; a matcher without parameters has no loss."""

    name: str = field("", "of the run: runs/NAME is its workdir unless --workdir says otherwise")
    seed: int = field(0, "of parameters, order and augmentation", "parameters", ge=0, lt=2**63)
    dataset: DatasetConfig = DatasetConfig()
    image: ImageConfig = ImageConfig()
    augment: AugmentConfig = AugmentConfig()
    sampler: SamplerConfig = SamplerConfig()
    model: Any
    loss: Any = None
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Config":
        for section in (self.model, self.loss):
            # A model or loss that is none is named elsewhere.
            if isinstance(self.model, Section) and hasattr(section, "check_config"):
                section.check_config(self)
        return self


def fields_affecting(section: Section, *what: str, prefix: str = "") -> dict[str, Any]:
    """Returns by dotted name the values of the fields that affect any of these; see `field`.

    The name of a matcher or a loss affects all but the records.
    """
    values: dict[str, Any] = {}
    for name, declared in type(section).model_fields.items():
        value, extra = getattr(section, name), declared.json_schema_extra
        affects: Any = extra["affects"] if isinstance(extra, dict) else _PLUGIN_AFFECTS
        if isinstance(value, Section):
            values |= fields_affecting(value, *what, prefix=f"{prefix}{name}.")
        elif value is not None and set(what) & set(affects):
            values[prefix + name] = value
    return values


def parse_config(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Parses and checks a whole config; fields that are left to the backbone get their values.

    Raises:
      InputError: naming every field that is wrong or unknown, with what was expected.
    """
    return _resolve_preprocessing(_validate(config))


def make_config(**sections: Any) -> ml_collections.ConfigDict:
    """Returns the config with these fields, all others at their defaults; for config files.

    A section is a mapping. The protocol's defaults are those of the data set's benchmark.
    """
    dataset = sections.get("dataset", {}).get("name", "synthetic")
    evaluation = dict(sections.get("eval", {}))
    evaluation["protocol"] = {**benchmark_protocol(dataset), **evaluation.get("protocol", {})}
    return to_config_dict(_validate({**sections, "eval": evaluation}))


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """Returns the fields that can be set for this matcher and loss, as flags take them."""
    values = config.model_dump(exclude_none=True)
    for name in _without_effect(config):
        *path, last = name.split(".")
        del functools.reduce(dict.__getitem__, path, values)[last]
    return ml_collections.ConfigDict(values)


def _without_effect(config: Config) -> Iterator[str]:
    """Yields the fields and sections that this matcher or loss has no use for."""
    if not hasattr(config.model, "num_keypoints"):
        yield "image.keypoints"
    if config.model.name == "detector":
        yield from (f"augment.{name}" for name in ("crop_jitter", "rotation_degrees", "shear"))
        for section, used in (("image", "interpolation"), ("eval.protocol", "split")):
            names = type(operator.attrgetter(section)(config)).model_fields.keys()
            yield from (f"{section}.{name}" for name in names - {used, "keypoints"})
        yield from ("sampler.cross_domain", "sampler.images_per_item", "sampler.epoch")
        yield from ("train.microbatch_size", "eval.search")
        return
    if config.loss is None:
        yield from ("seed", "augment", "sampler", "optimizer", "train")
        yield "eval.protocol.val_queries"
        if not hasattr(config.model, "backbone"):
            yield from ("eval.batch_size", "eval.search")
        return
    yield "augment.scale_jitter"
    if config.sampler.name != "pairs":
        yield "sampler.epoch"
    if config.sampler.name != "items":
        yield "sampler.images_per_item"
    if config.sampler.name == "pairs":
        yield "sampler.cross_domain"
        if not config.loss.embedding_weight:  # no embedding that anything would search by
            yield from (f"eval.search.whitening{rest}" for rest in ("", "_dim"))
            yield from (f"eval.search.query_expansion{rest}" for rest in ("", "_alpha"))


def _validate(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    plugins, problems = {}, []
    for section in _PLUGINS:
        if section == "model" or values.get(section):
            given = values.get(section) or {}
            name = str(given.get("name", "") if isinstance(given, Mapping) else given)
            try:
                plugins[section] = _plugin_class(section, name)
            except InputError as error:
                problems.append(str(error))
    kind = _config_class(**plugins)
    try:
        checked = kind.model_validate(values)
    except pydantic.ValidationError as error:
        problems += [_describe_problem(one, kind) for one in error.errors(include_url=False)]
    if problems:
        raise InputError("\n".join(problems))
    return checked


def _resolve_preprocessing(config: Config) -> Config:
    """Fills in model.backbone.preprocessing, image.interpolation and image.center_fraction.

    A matcher without backbone sees images as ImageNet's networks do.
    """
    model, image, name = config.model, config.image, "imagenet"
    if hasattr(model, "backbone"):
        backbone = model.backbone
        name = choose_preprocessing(backbone.preprocessing, backbone.name)
        backbone = backbone.model_copy(update={"preprocessing": name})
        model = model.model_copy(update={"backbone": backbone})
    preprocessing = find_preprocessing(name)
    image = image.model_copy(
        update={
            "interpolation": image.interpolation or preprocessing.interpolation,
            "center_fraction": image.center_fraction or preprocessing.center_fraction,
        }
    )
    return config.model_copy(update={"model": model, "image": image})


@functools.cache
def _config_class(**plugins: type[Section]) -> type[Config]:
    """Returns the config with these classes of model and loss."""
    sections: dict[str, Any] = {section: (kind, ...) for section, kind in plugins.items()}
    return pydantic.create_model("Config", __base__=Config, **sections)


def _plugin_class(section: str, name: str) -> type[Section]:
    """Returns the class `Config` of the matcher or loss of this name."""
    package = importlib.import_module(_PLUGINS[section])
    known = plugin_names(section)
    if name not in known:
        raise InputError(f"config.{section}.name={name!r}: expected one of {known}")
    file = getattr(package, "ALIASES", {}).get(name, name)
    return importlib.import_module(f"{package.__name__}.{file}").Config


def plugin_names(section: str) -> list[str]:
    """Returns the names of all matchers ("model") or losses ("loss"): the files with a `Config`."""
    package = importlib.import_module(_PLUGINS[section])
    aliases = getattr(package, "ALIASES", {})
    files = {module.name for module in pkgutil.iter_modules(package.__path__)}
    modules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in files}
    names = {name for name, module in modules.items() if hasattr(module, "Config")}
    return sorted((names - set(aliases.values())) | set(aliases))


def _section_of(annotation: Any) -> type[Section] | None:
    """Returns the section that a field of this type holds, None for a value."""
    for one in (annotation, *typing.get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Section):
            return one
    return None


def _describe_problem(problem: Any, kind: type[Config]) -> str:
    """Returns the line for a wrong field: its name and value, and what was expected."""
    *path, last = problem["loc"] or ("",)
    name, text = ".".join(map(str, ["config", *problem["loc"]])), problem["msg"]
    if problem["type"] == "extra_forbidden":
        section: Any = kind
        for part in path:
            section = _section_of(section.model_fields[part].annotation)
        close = difflib.get_close_matches(str(last), section.model_fields, 1)
        return f"{name}: unknown field" + (f"; did you mean {close[0]}?" if close else "")
    text = text.removeprefix("Value error, ").replace("Input should be", "expected", 1)
    if not isinstance(problem["input"], dict | Section):
        return f"{name}={problem['input']!r}: {text}"
    # Of a whole section, whose text names the field; or of a field that the section lacks.
    return f"{name}.{text}" if problem["type"] == "value_error" else f"{name}: {text}"


def describe() -> str:
    """Returns every field of every section, matcher and loss."""
    parts = ["Fields of the config, with their defaults; --config.SECTION.FIELD=VALUE sets one."]
    for name, declared in Config.model_fields.items():
        kinds: dict[Any, str] = {}
        for one in plugin_names(name) if name in _PLUGINS else [""]:
            kind = _plugin_class(name, one) if one else _section_of(declared.annotation)
            kinds[kind] = f"{kinds[kind]}, {one}" if kind in kinds else f"# {name} {one}".rstrip()
        for kind, title in kinds.items():
            if kind is not None:
                lines = textwrap.wrap(f"{title}: {kind.__doc__.splitlines()[0]}", 100)
                parts.append("\n".join([*lines, *_describe(f"{name}.", kind)]))
    return "\n\n".join(parts)


def _describe(prefix: str, kind: type[Section], defaults: Section | None = None) -> Iterator[str]:
    """Yields a section's fields: name, default, choices or limits, and the meaning below."""
    for name, declared in kind.model_fields.items():
        default = getattr(defaults, name, declared.default)
        if inner := _section_of(declared.annotation):
            yield from _describe(f"{prefix}{name}.", inner, default)
        elif declared.description:
            yield f"{f'{prefix}{name} = {default!r}':<44} {_describe_values(declared)}"
            yield textwrap.indent(textwrap.fill(declared.description, 96), "    ")


def _describe_values(declared: pydantic.fields.FieldInfo) -> str:
    """Returns a field's choices, or its type and limits."""
    if typing.get_origin(declared.annotation) is Literal:
        return " | ".join(str(one) or "''" for one in typing.get_args(declared.annotation))
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in declared.metadata
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if hasattr(limit, name)
    ]
    return ", ".join([getattr(declared.annotation, "__name__", ""), *limits])


def main() -> int:
    """Prints every field of every section."""
    ArgumentParser(prog="python -m grnet_jax.config", description=main.__doc__).parse_args()
    try:
        print(describe(), flush=True)
    except BrokenPipeError:  # whoever reads has read enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
