"""Small data sets that the tests of the input pipeline share."""

import io
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from PIL import Image

import input_pipeline


def make_data(**changes: object) -> ml_collections.ConfigDict:
    """The fields of config.data, for the tiny synthetic set."""
    fields = {
        "name": "synthetic",
        "dir": "",
        "size": "tiny",
        "train_items": 0,
        "seed": 0,
        "manifest": "",
        "source": "",
        "on_error": "",
        "image_size": 16,
        "crop": "box",
        "shop_crop": "",
        "detections": "",
        "points": "",
        "interpolation": "bilinear",
        "center_fraction": 0.875,
        "flip": True,
        "square": False,
        "box_jitter": 0.0,
        "tilt": 0.0,
        "skew": 0.0,
        "colour": 0.0,
        "hue": 0.0,
        "sampler": "pairs",
        "epoch": "pairs",
        "images_per_item": 2,
        "domains": "both",
        "max_objects": 0,
        "mask_size": 28,
        "max_pixels": 1_000_000,
        "max_side": 0,
    }
    return ml_collections.ConfigDict({**fields, **changes})


def photo_bytes(
    seed: int = 0,
    size: tuple[int, int] = (24, 36),
    mode: str = "RGB",
    kind: str = "JPEG",
    **options,
) -> bytes:
    """A photo file of (height, width) `size` with smooth random content."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def write_manifest(
    folder: Path, rows: list[str], header: str = "image,item_id,domain,split"
) -> Path:
    """A CSV of these rows, with a photo for each cell `image` that ends in .jpg."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        image = folder / row.split(",")[0]
        if image.suffix == ".jpg" and not image.exists():
            image.write_bytes(photo_bytes(number))
    path = folder / "photos.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory) -> Path:
    """Where the tiny synthetic set is prepared once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def data(prepared_folder) -> ml_collections.ConfigDict:
    """Fields of the tiny synthetic set."""
    return make_data(dir=str(prepared_folder))


@pytest.fixture(scope="session")
def dataset(data) -> input_pipeline.Dataset:
    """The tiny synthetic set, shared by the tests: not to be changed."""
    return input_pipeline.load_dataset(data)


@pytest.fixture
def three_garments(monkeypatch) -> None:
    """CropBoxes the tiny set to three items a split, for tests that prepare it anew."""
    from input_pipeline.datasets.synthetic import SIZES, SplitSize

    monkeypatch.setitem(SIZES, "tiny", {split: SplitSize(3, 1) for split in ("train", "test")})
