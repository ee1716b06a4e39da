"""What the config sections of all matchers share."""

from typing import Annotated, Any, Literal

import pydantic

from grnet_jax.backbones import BACKBONES, build_backbone
from grnet_jax.backbones.preprocessing import PREPROCESSING
from grnet_jax.graph import check_scales
from input_pipeline import PathText, Section, field

_Pairs = tuple[tuple[pydantic.PositiveInt, pydantic.PositiveInt], ...]
# A pyramid, (rows, columns) of each scale, the whole image first; and one that may be left out.
Scales = Annotated[_Pairs, pydantic.AfterValidator(check_scales)]
ScalesOrNone = Annotated[
    _Pairs, pydantic.AfterValidator(lambda scales: scales and check_scales(scales))
]


class ModelConfig(Section):
    """A matcher; its own section declares `name` and its fields."""

    name: str

    def check_config(self, config: Any) -> None:
        """Raises ValueError, naming the field, where the whole config does not fit the matcher."""


class BackboneConfig(Section):
    """From an image to feature maps."""

    name: str = field("googlenet", f"{', '.join(BACKBONES)}", "parameters", "features", "scores")
    pretrained: PathText = field(
        "",
        'weights to start from: "imagenet", those of an installed package (efficientnet_lite0 to '
        "2), or a file of `python -m grnet_jax.backbones.convert`",
    )
    stride: int = field(
        0,
        "stride of the map that is used, without the layers behind it (efficientnet_lite: 4, 8, 16 "
        "or 32); 0: the largest",
        "parameters",
        "features",
        "scores",
        ge=0,
    )
    preprocessing: str = field(
        "",
        "normalization and resizing; empty: as the backbone's ImageNet weights expect",
        "parameters",
        "features",
        "scores",
    )
    cell_color_weight: float = field(
        0.0,
        "each cell's color histogram stands beside the last map's channels, with so many times "
        "their length; 0: none",
        "parameters",
        "features",
        "scores",
        ge=0,
    )
    reduction_channels: int = field(
        0,
        "of a 1x1 and a 3x3 convolution on the map, trained with the rest; 0: none",
        "parameters",
        "features",
        "scores",
        ge=0,
    )
    frozen_batch_norm: bool = field(
        False, "BatchNorm keeps its statistics while training", "parameters"
    )

    @pydantic.field_validator("name", "preprocessing")
    @classmethod
    def _known(cls, value: str, info: pydantic.ValidationInfo) -> str:
        known = list(BACKBONES) if info.field_name == "name" else ["", *PREPROCESSING]
        if value not in known:
            raise ValueError(f"expected one of {known}")
        return value

    @pydantic.model_validator(mode="after")
    def _builds(self) -> "BackboneConfig":
        build_backbone(self.name, stride=self.stride)
        return self


class NetworkConfig(ModelConfig):
    """A matcher on a backbone."""

    dtype: Literal["float32", "bfloat16", "float16", "float64"] = field(
        "float32",
        "of the computation; parameters and reductions are float32",
        "parameters",
        "features",
        "scores",
    )
    backbone: BackboneConfig = BackboneConfig()
