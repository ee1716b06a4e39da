"""Typed config sections: a field's name, type, default, limits and meaning stand here, once.

pydantic checks them: it names every wrong field at once, with what was expected, and its models are
frozen, so that what was checked at the entry holds everywhere behind it.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from input_pipeline.datasets import dataset_names

Affects: TypeAlias = Literal["records", "parameters", "features", "scores"]
# What image.keypoints is for those that a data set is annotated with.
ANNOTATED = "landmarks"
MAX_PIXELS = 50_000_000  # of an image, unless its reader says otherwise
_LIMIT = 2**31  # of numbers whose field has no upper limit: they become int32 and float32


class Section(pydantic.BaseModel):
    """A part of a config; unknown fields, NaN, infinite and huge numbers are refused."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @pydantic.field_validator("*")
    @classmethod
    def _not_huge(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        limits = cls.model_fields[str(info.field_name)].metadata
        limited = any(hasattr(limit, name) for limit in limits for name in ("lt", "le"))
        if not limited and any(abs(number) >= _LIMIT for number in _numbers(value)):
            raise ValueError("expected numbers between -2**31 and 2**31")
        return value


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value


def _check_path(text: str) -> str:
    from input_pipeline.files import parse_path  # with pandas, which printing the fields need not

    parse_path(text)
    return text


PathText = Annotated[str, pydantic.AfterValidator(_check_path)]  # of this machine or a bucket


def field(default: Any, meaning: str, *affects: Affects, **limits: Any) -> Any:
    """Declares a field.

    Args:
      default: its value where a config has none.
      meaning: in a line or two, with its unit; what `python -m grnet_jax.config` prints.
      *affects: what another value changes: the "records" that are read, the "parameters" that
        training gives, an image's "features" with the same parameters, a pair's "scores" with the
        same features. None of them for what is reported, and for where things lie.
      **limits: of pydantic: ge, gt, le, lt.
    """
    extra: Any = {"affects": list(affects)}
    return pydantic.Field(default, description=meaning, json_schema_extra=extra, **limits)


class DatasetConfig(Section):
    """Which images."""

    name: str = field("synthetic", f"data set: {', '.join(dataset_names())}", "records")
    source: PathText = field(
        "",
        "what it is prepared from: the folder you downloaded, or the CSV (manifest, findfashion); "
        'synthetic: its size, "small", "tiny" or "colors"',
    )
    dir: PathText = field("data", "folder or bucket of prepared data sets")

    @pydantic.field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in dataset_names():
            raise ValueError(f"expected one of {list(dataset_names())}")
        return name


class PrepareOptions(Section):
    """How `python -m input_pipeline.prepare` prepares a data set; training needs none of them."""

    items: int = field(0, "synthetic: training items; 0: the size's own", ge=0)
    seed: int = field(0, "synthetic: draws another set", ge=0)
    on_error: str = field(
        "",
        "wrong rows: error (name all and stop), skip (leave out and count), or kinds of problems "
        "to skip, joined by commas; empty: the kinds that the data set is known to have",
    )
    max_pixels: int = field(MAX_PIXELS, "larger images are refused", ge=1)
    max_side: int = field(
        0, "larger images are stored with this longer side, in pixels; 0: as they are", ge=0
    )
    beam_runner: str = field("", "write the records with Apache Beam, as DirectRunner")
    beam_options: str = field("", "Beam's flags, joined by commas")

    def for_records(self) -> dict[str, Any]:
        """Returns the options that the records depend on."""
        return self.model_dump(exclude={"beam_runner", "beam_options"})


class ImageConfig(Section):
    """What a model sees of an image."""

    size: int = field(
        224, "side of the square image, in pixels", "parameters", "features", ge=1, le=8192
    )
    crop: Literal["box", "detected", "none", "center"] = field(
        "box",
        'the garment\'s "box"; the box "detected" in image.detections; "none": the whole image; '
        '"center": its central square',
        "parameters",
        "features",
    )
    shop_crop: Literal["", "box", "detected", "none", "center"] = field(
        "", "the same for shop images; empty: as image.crop", "parameters", "features"
    )
    square: Literal["never", "training", "always"] = field(
        "never",
        "take a square of the crop's shorter side, in training anywhere along the longer one, at "
        "test its middle (always), instead of stretching the crop to a square (never; at test: "
        "training)",
        "parameters",
        "features",
    )
    detections: PathText = field(
        "", "a detector's boxes: CSV with image, x_1, y_1, x_2, y_2 and, if several, score"
    )
    keypoints: PathText = field(
        "",
        "keypoints to pool around (model.pooling=keypoints): CSV with image and x_NAME, y_NAME in "
        f'pixels of the upright image; "{ANNOTATED}": those annotated',
    )
    interpolation: Literal["", "bilinear", "bicubic"] = field(
        "", "of resizing; empty: as model.backbone.preprocessing has it", "parameters", "features"
    )
    center_fraction: float = field(
        0.0,
        "side of the central square by the image's shorter side; 0: as model.backbone.preprocessing"
        " has it",
        "parameters",
        "features",
        ge=0,
        le=1,
    )


class AugmentConfig(Section):
    """Random changes of training images; 0 and false for none."""

    flip: bool = field(True, "random horizontal flips", "parameters")
    crop_jitter: float = field(
        0.0,
        "each edge of the crop moves by up to this share of its side",
        "parameters",
        ge=0,
        lt=0.5,
    )
    scale_jitter: float = field(
        0.0,
        "photos with objects: their scale times or by 1 + up to this; what leaves the canvas is cut"
        " off",
        "parameters",
        ge=0,
    )
    rotation_degrees: float = field(
        0.0, "rotation about the center by up to so many degrees", "parameters", ge=0, lt=180
    )
    shear: float = field(0.0, "horizontal shear by up to this share", "parameters", ge=0, lt=1)
    color_jitter: float = field(
        0.0, "brightness, contrast and saturation times 1 ± up to this", "parameters", ge=0, lt=1
    )
    hue_jitter: float = field(
        0.0, "hues turn by up to this share of the color circle", "parameters", ge=0, lt=0.5
    )


class SamplerConfig(Section):
    """What a training batch holds."""

    name: Literal["pairs", "items", "images"] = field(
        "pairs",
        'a customer and a shop image of an item ("pairs"), several images of an item ("items"), or '
        'single "images"',
        "parameters",
    )
    epoch: Literal["pairs", "items"] = field(
        "pairs", '"pairs": what an epoch goes once over', "parameters"
    )
    images_per_item: int = field(2, '"items": images of each', "parameters", ge=2)
    cross_domain: bool = field(
        True,
        '"items": half are customer and half shop images, and losses compare across the two; false:'
        " all images alike",
        "parameters",
    )

    @property
    def group_size(self) -> int:
        """Returns how many neighboring images of a batch are one item's."""
        return {"pairs": 2, "items": self.images_per_item, "images": 1}[self.name]
