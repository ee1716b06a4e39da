"""Feature stores: what is read is what was written, and what cannot be trusted is refused."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import lance
import ml_dtypes
import numpy as np
import pytest

from grnet_jax.models import Features
from grnet_jax.search.features import InMemoryFeatures, read_blocks
from grnet_jax.search.fingerprints import Fingerprint
from grnet_jax.search.store import FeatureStore, StoreError

_ROOT = pathlib.Path(__file__).parents[2]
_ORIGIN = Fingerprint("0123abcd", 800, "feed")
_N = 50


def _features(n=_N, dtype=np.float32):
    rng = np.random.default_rng(0)
    regions = rng.standard_normal((n, 3, 8)).astype(dtype)
    return Features(rng.standard_normal((n, 8)).astype(np.float32), regions)


def _ids(n=_N):
    return np.array([f"shop/{number:04d}.jpg" for number in range(n)])


def _store(path, features=None, dtype="float32", origin=_ORIGIN, ids=None):
    return FeatureStore(
        path / "gallery.lance", origin, _ids() if ids is None else ids, features or _features(),
        dtype,
    )  # fmt: skip


def _write(store, features, rows, at_once=7):
    for start in range(0, len(rows), at_once):
        chosen = rows[start : start + at_once]
        with store.writer() as writer:
            writer.add(chosen, jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], features))


def _equal(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("own", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_read_is_what_was_written(tmp_path, dtype, own):
    features = _features(dtype=own)
    rows = np.random.default_rng(1).permutation(_N)  # writers may finish in any order
    store = _store(tmp_path, features, dtype)
    _write(store, features, rows)
    reader = _store(tmp_path, features, dtype).reader()
    assert len(reader) == _N
    stored = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    wanted = jax.tree.map(lambda leaf: leaf.astype(stored).astype(leaf.dtype), features)
    for asked in (np.arange(_N), np.array([7, 3, 3, 49, 0, 7]), np.array([], int), rows):
        _equal(reader.take(asked), InMemoryFeatures(wanted).take(asked))


def test_features_without_regions(tmp_path):
    features = Features(np.random.default_rng(0).standard_normal((_N, 8)).astype(np.float32))
    store = _store(tmp_path, features)
    _write(store, features, np.arange(_N))
    _equal(store.reader().take(np.arange(5)), Features(features.embedding[:5]))


@pytest.mark.parametrize("size", [8, 50, 64])
def test_reading_in_order_gives_every_image_once(tmp_path, size):
    features = _features()
    store = _store(tmp_path)
    _write(store, features, np.arange(_N)[::-1].copy())
    seen = []
    for start, count, block in read_blocks(store.reader(), size):
        assert start == sum(len(part.embedding) for part in seen)
        assert len(block.embedding) == size
        assert not np.any(block.regions[count:])
        seen.append(jax.tree.map(lambda leaf, count=count: leaf[:count], block))
    _equal(jax.tree.map(lambda *leaves: np.concatenate(leaves), *seen), features)


def test_a_image_that_cannot_be_read_ends_the_reading(tmp_path):
    class Broken(InMemoryFeatures):
        def take(self, rows):
            if rows[0] >= 16:
                raise StoreError("photo 16")
            return super().take(rows)

    with pytest.raises(StoreError, match="photo 16"):
        list(read_blocks(Broken(_features()), 8))


def test_an_unfinished_store_is_refused_and_completed(tmp_path):
    features, store = _features(), _store(tmp_path)
    np.testing.assert_array_equal(store.missing(), np.arange(_N))
    _write(store, features, np.arange(0, _N, 2))
    with pytest.raises(StoreError, match="lacks 25 of 50 images, such as number 1"):
        store.reader()
    again = _store(tmp_path)
    np.testing.assert_array_equal(again.missing(), np.arange(1, _N, 2))
    _write(again, features, again.missing())
    _equal(again.reader().take(np.arange(_N)), features)
    again.remove_remains()
    _equal(_store(tmp_path).reader().take(np.arange(_N)), features)


def test_an_error_writes_nothing_more(tmp_path):
    store = _store(tmp_path)

    def interrupted():
        with store.writer() as writer:
            writer.add(np.arange(3), InMemoryFeatures(_features()).take(np.arange(3)))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert len(store.missing()) == _N


def test_photos_that_are_there_twice_are_refused(tmp_path):
    features, store = _features(), _store(tmp_path)
    _write(store, features, np.arange(_N))
    _write(store, features, np.array([9, 31]))
    with pytest.raises(StoreError, match="holds 2 images twice, such as number 9"):
        store.reader()
    with pytest.raises(StoreError, match="twice"):
        store.missing()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "ffff"}, "model: 0123abcd there, ffff now"),
        ({"step": 801}, "step: 800 there, 801 now"),
        ({"photos": "beef"}, "photos: feed there, beef now"),
    ],
)
def test_another_origin_is_refused(tmp_path, changes, message):
    _store(tmp_path)
    with pytest.raises(StoreError, match=message):
        _store(tmp_path, origin=dataclasses.replace(_ORIGIN, **changes))


def test_another_form_is_refused(tmp_path):
    _store(tmp_path, dtype="float16")
    with pytest.raises(StoreError, match=r"float32 as float16.* there, .*float32 as float32"):
        _store(tmp_path)
    with pytest.raises(StoreError, match="rows: 50 there, 49 now"):
        _store(tmp_path, dtype="float16", ids=_ids(49))
    two = Features(_features().embedding, _features().regions[:, :2])
    with pytest.raises(StoreError, match=r"\[3, 8\].* there, .*\[2, 8\]"):
        _store(tmp_path, two, "float16")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("model", "other", "image 3 with model other, expected 0123abcd"),
        ("step", 7, "image 3 with step 7, expected 800"),
        ("photo_id", "else.jpg", r"image 3 with photo_id else.jpg, expected shop/0003.jpg"),
        ("index", 50, "holds image 50, of 50"),
    ],
)
def test_rows_of_another_store_are_refused(tmp_path, column, values, message):
    features, store = _features(), _store(tmp_path)
    _write(store, features, np.arange(3))
    other = _store(tmp_path / "other")
    _write(other, features, np.array([3]))
    row = lance.dataset(other.path).to_table()
    place = row.column_names.index(column)
    row = row.set_column(place, row.schema.field(place), [[values]])
    lance.write_dataset(row, store.path, mode="append")
    with pytest.raises(StoreError, match=message):
        store.missing()


def test_numbers_too_large_for_a_dtype_are_refused(tmp_path):
    features = _features()
    features.regions[4, 1, 2] = 1e5
    store = _store(tmp_path, dtype="float16")
    with pytest.raises(StoreError, match=r"regions has values up to 1e\+05, too large for float16"):
        _write(store, features, np.arange(_N))
    store = _store(tmp_path / "wide", dtype="bfloat16")
    _write(store, features, np.arange(_N))
    assert store.reader().take(np.array([4])).regions[0, 1, 2] == pytest.approx(1e5, rel=1e-2)


def _damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "gone":
        path.unlink()
    else:
        content[len(content) // 3] ^= 0x40
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("data", "cut"),
        ("data", "gone"),
        ("data", "flipped"),
        ("_versions", "cut"),
        ("_versions", "gone"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, part, how):
    features = _features(4000)
    ids = _ids(4000)
    store = _store(tmp_path, features, ids=ids)
    _write(store, features, np.arange(4000), 4000)
    for path in (pathlib.Path(store.path) / part).glob("*.lance" if part == "data" else "*"):
        _damage(path, how)

    def read():
        return _store(tmp_path, features, ids=ids).reader().take(np.arange(4000))

    with pytest.raises(StoreError, match=r"gallery\.lance"):
        read()


def test_two_writers_at_once_lose_nothing(tmp_path):
    """In processes of their own, each photo by photo."""
    store = _store(tmp_path)
    halves = np.arange(0, _N, 2), np.arange(1, _N, 2)
    writers = [_start_writer(tmp_path, f"np.array({half.tolist()})") for half in halves]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    _equal(store.reader().take(np.arange(_N)), _features())


@pytest.mark.slow
def test_writers_killed_at_any_moment_leave_whole_photos(tmp_path):
    store = _store(tmp_path)
    rng = np.random.default_rng(0)
    left = _N
    for _ in range(4):
        writer = _start_writer(tmp_path, "store.missing()", 0.05)
        while writer.poll() is None and len(store.missing()) == left:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        missing = store.missing()
        assert 0 < len(missing) < left
        left = len(missing)
    with pytest.raises(StoreError, match="lacks"):
        store.reader()
    assert _start_writer(tmp_path, "store.missing()").wait(timeout=120) == 0
    store.remove_remains()
    _equal(store.reader().take(np.arange(_N)), _features())


def _start_writer(path, rows, pause=0.0):
    """A process that writes these photos, one a commit."""
    code = f"""
import pathlib, time
import numpy as np
from tests.search import test_store as t

store = t._store(pathlib.Path({str(path)!r}))
for row in {rows}:
    t._write(store, t._features(), row[None])
    time.sleep({pause})
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=_ROOT, env=os.environ | {"XLA_FLAGS": ""}
    )
