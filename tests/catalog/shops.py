"""Small matchers and shops of drawn photos."""

import csv
import functools

import numpy as np
from PIL import Image

from grnet_jax.catalog.indexing import IndexOptions, index_catalog
from grnet_jax.config import parse_config
from grnet_jax.inference import LoadedMatcher
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import build_run
from tests.small import small_config


@functools.cache
def small_loaded(system="color_histogram", **fields):
    """Returns a matcher before any training."""
    run = build_run(parse_config(small_config(system, **fields)), make_mesh())
    return LoadedMatcher(run, run.create_state())


def draw(seed, size=(60, 48)):
    """Returns a photo of patches of colors."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size[::-1], Image.Resampling.NEAREST)


def save(path, seed, **how):
    """Draws a photo into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(seed).save(path, **how)


def write_csv(path, rows, columns=("image", "item_id", "category", "price")):
    """Writes a CSV with these columns."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def make_shop(folder, count=12):
    """Draws photos, two an item, and lists them; returns the CSV."""
    rows = []
    for number in range(count):
        save(folder / f"{number}.png", number)
        rows.append((f"{number}.png", f"item {number // 2}", "ab"[number % 2], 10 * number))
    return write_csv(folder / "photos.csv", rows)


def index(folder, source, matcher=None, **options):
    """Indexes a source."""
    return index_catalog(folder, matcher or small_loaded(), IndexOptions(str(source), **options))
