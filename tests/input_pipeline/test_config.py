"""Sections of a config: wrong fields and values are named, all at once."""

import pydantic
import pytest

from input_pipeline import AugmentConfig, DatasetConfig, ImageConfig, SamplerConfig
from input_pipeline.config import PrepareOptions

SECTIONS = (DatasetConfig, PrepareOptions, ImageConfig, AugmentConfig, SamplerConfig)


def _wrong(section, **fields):
    """Returns the message for each field that is wrong."""
    with pytest.raises(pydantic.ValidationError) as caught:
        section(**fields)
    return {error["loc"][0]: error["msg"] for error in caught.value.errors()}


@pytest.mark.parametrize("section", SECTIONS)
def test_fields_say_what_they_mean(section):
    for declared in section.model_fields.values():
        assert declared.description
        affected = declared.json_schema_extra["affects"]
        assert set(affected) <= {"records", "parameters", "features", "scores"}
    assert section() == section.model_validate(section().model_dump())


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_fields_are_named(section):
    assert _wrong(section, colour=1) == {"colour": "Extra inputs are not permitted"}


@pytest.mark.parametrize(
    ("section", "fields", "messages"),
    [
        (DatasetConfig, {"name": "deepfashion"}, ["expected one of ['coco', 'deepfashion2', "]),
        (PrepareOptions, {"items": -1, "max_pixels": 0, "max_side": -1}, ["than or equal to"] * 3),
        (PrepareOptions, {"seed": "x"}, ["valid integer"]),
        (
            ImageConfig,
            {"size": 0, "crop": "middle", "interpolation": "cubic", "center_fraction": 1.5},
            ["greater than or equal to 1", "'box', 'detected'", "'bilinear' or", "equal to 1"],
        ),
        (ImageConfig, {"shop_crop": "shop", "square": "maybe"}, ["'box'", "'never', 'training'"]),
        (
            AugmentConfig,
            {"crop_jitter": 0.5, "rotation_degrees": 180, "shear": 1, "color_jitter": 1},
            ["less than 0.5", "less than 180", "less than 1", "less than 1"],
        ),
        (AugmentConfig, {"hue_jitter": 0.5, "shear": float("nan")}, ["than 0.5", "finite"]),
        (
            SamplerConfig,
            {"name": "photos", "epoch": "images", "images_per_item": 1},
            ["'pairs', 'items' or 'images'", "'pairs' or 'items'", "equal to 2"],
        ),
    ],
)
def test_wrong_values_are_all_named(section, fields, messages):
    wrong = _wrong(section, **fields)
    assert wrong.keys() == fields.keys()
    for name, message in zip(fields, messages, strict=True):
        assert message in wrong[name], name


def test_sections_are_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        ImageConfig().size = 32


def test_group_sizes():
    sizes = {
        name: SamplerConfig(name=name, images_per_item=4).group_size
        for name in ("pairs", "items", "images")
    }
    assert sizes == {"pairs": 2, "items": 4, "images": 1}
