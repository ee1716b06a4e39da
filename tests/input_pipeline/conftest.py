"""Small data sets that the tests of the input pipeline share."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import input_pipeline
from input_pipeline import DatasetConfig, ImageConfig
from input_pipeline.config import PrepareOptions
from input_pipeline.dataset import SourceCheck, check_source

IMAGE = ImageConfig(size=16)


def load(name: str, source: object = "", dir: object = "", **options: object):
    """Prepares a data set and opens it."""
    config = DatasetConfig(name=name, source=str(source), dir=str(dir))
    return input_pipeline.load_dataset(config, PrepareOptions(**options))


def check(name: str, source: object, **options: object) -> SourceCheck:
    """Checks what a data set would be prepared from."""
    return check_source(DatasetConfig(name=name, source=str(source)), PrepareOptions(**options))


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
def dataset(data_dir) -> input_pipeline.Dataset:
    """The tiny synthetic set, shared by the tests: not to be changed."""
    return load("synthetic", "tiny", data_dir)


@pytest.fixture
def three_garments(monkeypatch) -> None:
    """Reduces the tiny set to three items a split, for tests that prepare it anew."""
    from input_pipeline.datasets.synthetic import SIZES, SplitSize

    monkeypatch.setitem(SIZES, "tiny", {split: SplitSize(3, 1) for split in ("train", "test")})
