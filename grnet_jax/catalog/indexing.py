"""Brings a catalog up to date with its photos: only what is new or changed is embedded."""

import csv
import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from etils import epath
from PIL import Image

from grnet_jax.catalog.generations import (
    BOX,
    COLOR_CELLS,
    FIELD,
    FILE,
    Manifest,
    Model,
    Photos,
    PhotoTable,
    StoreError,
    open_generation,
    read_listing,
    read_manifest,
    write_manifest,
    writer_lock,
)
from grnet_jax.errors import InputError
from grnet_jax.evaluation.progress import progress_bar
from grnet_jax.inference import LoadedMatcher
from grnet_jax.models import Features
from grnet_jax.search.indexed import choose_probes
from input_pipeline import (
    Box,
    Crop,
    PhotoList,
    check_folder,
    list_photos,
    load_crop,
    ordered_map,
    write_file,
)

SHORTLIST = 200  # photos nearest by embedding that a pairwise matcher scores
_RECALL_QUERIES = 200  # that an index is tried with
_THUMBNAIL = 384  # pixels, the longer side
_Stat = tuple[int, int]  # size in bytes, time of the last change in nanoseconds


@dataclasses.dataclass(frozen=True)
class IndexOptions:
    """How a catalog is indexed.

    Attributes:
      source: a CSV, a folder of photos or the folder of a prepared data set.
      splits: of the latter; all where there are none.
      run: what the matcher was loaded from.
      max_bad: the share of the photos that may be unreadable.
      reread: whether files are read whose size and time are as they were.
      rebuild: whether everything is embedded anew.
      memory_gb: embeddings that take more are not held in memory, but searched by an index.
    """

    source: str
    splits: tuple[str, ...] = ()
    run: str = ""
    max_bad: float = 0.05
    reread: bool = False
    rebuild: bool = False
    memory_gb: float = float("inf")


class _Read(NamedTuple):
    """What a thread found out about a row: its photo's digest, and what is new."""

    stat: _Stat
    content: str
    state: str
    crop: Crop | None = None
    thumbnail: bytes = b""
    error: str = ""


def index_catalog(folder: epath.Path, matcher: LoadedMatcher, options: IndexOptions) -> Manifest:
    """Indexes photos, and returns the new content of catalog.json.

    A kill leaves the catalog as it was; the same call then goes on with what it had embedded.

    Raises:
      InputError: too many photos are unreadable, the source is none, or the folder cannot be
        written to.
      StoreError: the catalog is of another model, or another process is indexing it.
    """
    if jax.process_count() > 1:
        raise InputError("index: is of one process, with all of its devices")
    photos = list_photos(options.source, options.splits)
    check_folder(folder)
    with writer_lock(folder):
        before = read_manifest(folder)
        if before and before.model.fingerprint != matcher.fingerprint and not options.rebuild:
            run, step = before.model.run, before.model.step
            raise StoreError(
                f"{folder}: was indexed by {run} at step {step}, and not by {options.run} at step "
                f"{matcher.step}: index with --rebuild, or into another folder"
            )
        return _Indexing(folder, matcher, options, photos, before).run()


class _Indexing:
    """One run of `index_catalog`, under its lock."""

    def __init__(
        self,
        folder: epath.Path,
        matcher: LoadedMatcher,
        options: IndexOptions,
        photos: PhotoList,
        before: Manifest | None,
    ):
        self._folder, self._matcher, self._options = folder, matcher, options
        self._photos, self._before = photos, before
        self._listed_before = pd.DataFrame()
        if before and not options.rebuild:
            self._listed_before = read_listing(folder, before)
        self._generation = before.generation + 1 if before else 1
        self._transform = matcher.transform(shop=True)
        self._table_name = self._choose_table()
        self._table = PhotoTable(
            folder / self._table_name,
            f"{matcher.fingerprint} of step {matcher.step}",
            matcher.feature_shapes(),
            matcher.config.eval.search.store_dtype,
        )
        self._numbers = self._table.numbers()
        self._next = max([before.next if before else 0, *(n + 1 for n in self._numbers.values())])
        self._known_files = self._read_known_files()
        table = photos.table
        self._paths, self._names = table["path"].tolist(), table["image"].tolist()
        boxes = table[BOX].to_numpy(np.float64)
        cropped = matcher.takes_boxes(shop=True) & ~np.isnan(boxes).any(axis=1)
        self._boxes: list[Box | None] = [
            tuple(box) if use else None for box, use in zip(boxes.tolist(), cropped, strict=True)
        ]

    def run(self) -> Manifest:
        """Embeds, lists and publishes."""
        found, problems = self._read_all()
        total = len(found) + len(self._photos.problems)
        bad = len(self._photos.problems) + len(problems)
        listed = [f"{problem.source}: {problem.text}" for problem in self._photos.problems]
        listed += [f"{source}: {text}" for source, text in problems]
        _write_problems(self._folder, listed)
        if bad > self._options.max_bad * total or bad == total:
            shown = "\n".join(listed[:20])
            raise InputError(
                f"{bad:,} of {total:,} photos cannot be used, more than --max_bad="
                f"{self._options.max_bad:g}; the catalog stays as it was. All are in "
                f"{self._folder / 'problems.csv'}, the first:\n{shown}"
            )
        listing = self._list(found)
        counts = self._compare(listing) | {
            "unreadable": bad,
            "customers": self._photos.customers,
        }
        return self._publish(listing, counts)

    def _choose_table(self) -> str:
        name = f"photos-{self._matcher.fingerprint[:8]}"
        if self._before and self._options.rebuild and self._before.table.startswith(name):
            name += f"-{self._generation}"
        return f"{name}.lance"

    def _read_known_files(self) -> Mapping[str, tuple[_Stat, str]]:
        """Returns the digests of files by their paths, where they were when last indexed."""
        if self._options.reread or self._listed_before.empty:
            return {}
        columns = zip(
            *(self._listed_before[name].tolist() for name in ["path", *FILE]), strict=True
        )
        return {path: ((size, time), content) for path, size, time, content in columns if path}

    def _read_all(self) -> tuple[list[_Read], list[tuple[str, str]]]:
        """Reads every row's photo, and embeds those that the table has not yet.

        Returns:
          What was found of each row, and (FILE:LINE, text) of those that cannot be used.
        """
        found: list[_Read] = []
        problems = []
        batch = self._matcher.config.eval.batch_size
        rows, sources = range(len(self._paths)), self._photos.table["source"].tolist()
        waiting: list[_Read] = []
        threads = max(os.cpu_count() or 1, 2)
        with (
            progress_bar(len(rows), "index", "photo") as bar,
            ThreadPoolExecutor(threads) as pool,
        ):
            for row, read in enumerate(ordered_map(pool, self._read, rows, 2 * batch)):
                bar.update()
                if read.error:
                    problems.append((sources[row], read.error))
                elif read.crop is not None and read.state not in self._numbers:
                    waiting.append(read)
                    self._numbers[read.state] = self._next
                    self._next += 1
                found.append(read._replace(crop=None, thumbnail=b""))
                if len(waiting) == batch:
                    self._embed(waiting)
                    waiting = []
            self._embed(waiting)
        self._table.flush()
        return found, problems

    def _read(self, row: int) -> _Read:
        """What a thread does for a row."""
        path, box = self._paths[row], self._boxes[row]
        try:
            stat = _stat(path)
            known = self._known_files.get(path)
            data, content = None, known[1] if known and known[0] == stat else ""
            if not content:
                data = self._photos.read(row)
                content = hashlib.blake2b(data, digest_size=16).hexdigest()
            state = content if box is None else f"{content} {box}"
            if state in self._numbers:
                return _Read(stat, content, state)
            data = data or self._photos.read(row)
            crop = load_crop(data, box, self._transform, path or self._names[row])
            thumbnail = _thumbnail(crop.picture)
            # Without the picture, of which threads would keep many.
            return _Read(stat, content, state, crop._replace(picture=crop.pixels), thumbnail)
        except InputError as error:
            return _Read((0, 0), "", "", error=str(error))

    def _embed(self, reads: list[_Read]) -> None:
        if not reads:
            return
        crops = [read.crop for read in reads if read.crop is not None]
        pixels = np.stack([crop.pixels for crop in crops])
        photos = Photos(
            [read.state for read in reads],
            np.array([[crop.height, crop.width] for crop in crops], np.int32),
            [read.thumbnail for read in reads],
            _mean_colors(pixels),
        )
        numbers = np.array([self._numbers[read.state] for read in reads])
        self._table.add(numbers, self._matcher.embed_crops(pixels, shop=True), photos)

    def _list(self, found: list[_Read]) -> pd.DataFrame:
        """The rows that can be used, as `Generation` has them."""
        good = [not read.error for read in found]
        reads = [read for read in found if not read.error]
        listing = self._photos.table[good].drop(columns="source").reset_index(drop=True)
        fields = self._photos.fields[good].reset_index(drop=True).add_prefix(FIELD)
        own = pd.DataFrame(
            {
                "number": np.array([self._numbers[read.state] for read in reads], np.int64),
                "file_size": [read.stat[0] for read in reads],
                "file_time": [read.stat[1] for read in reads],
                "content": [read.content for read in reads],
            }
        )
        return pd.concat([own, listing, fields], axis=1)

    def _compare(self, listing: pd.DataFrame) -> dict[str, int]:
        """Counts photos added, changed, removed and same."""
        before, now = _numbers_by_key(self._listed_before), _numbers_by_key(listing)
        both = before.keys() & now.keys()
        changed = sum(before[key] != now[key] for key in both)
        return {
            "added": len(now) - len(both),
            "changed": changed,
            "removed": len(before) - len(both),
            "same": len(both) - changed,
        }

    def _publish(self, listing: pd.DataFrame, counts: dict[str, int]) -> Manifest:
        matcher, options = self._matcher, self._options
        shapes = matcher.feature_shapes()
        indexed = 4 * len(listing) * shapes.embedding.shape[1] > options.memory_gb * 1e9
        manifest = Manifest(
            generation=self._generation,
            indexed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source=options.source,
            splits=list(options.splits),
            model=Model(
                run=options.run,
                name=matcher.config.name,
                step=matcher.step,
                fingerprint=matcher.fingerprint,
                dtype=matcher.config.eval.search.store_dtype,
            ),
            table=self._table_name,
            version=1,
            rows=len(listing),
            items=int(listing["item_id"].nunique()),
            next=self._next,
            counts=counts,
        )
        manifest = publish(self._folder, self._table, manifest, listing, shapes, indexed)
        self._clean()
        return manifest

    def _clean(self) -> None:
        """Removes what neither this generation nor the one before reads."""
        oldest = self._generation - 1
        self._table.clean(oldest)
        tables = {self._table_name, self._before.table if self._before else ""}
        for path in self._folder.iterdir():
            number = path.name.removeprefix("listing-").removesuffix(".parquet")
            old = path.name.startswith("listing-") and number.isdecimal() and int(number) < oldest
            if old or (path.name.startswith("photos-") and path.name not in tables):
                path.rmtree() if path.is_dir() else path.unlink()


def publish(
    folder: epath.Path,
    table: PhotoTable,
    manifest: Manifest,
    listing: pd.DataFrame,
    like: Features,
    indexed: bool,
) -> Manifest:
    """Makes a generation the live one.

    Args:
      folder: of the catalog.
      table: has its photos.
      manifest: of the generation, but for the table's version and its index.
      listing: its photos.
      like: shapes and dtypes of features.
      indexed: whether an index of the embeddings is built.

    Returns:
      The manifest as it was written.
    """
    numbers = listing["number"].to_numpy()
    version, partitions = table.publish(numbers, manifest.generation, indexed)
    manifest = manifest.model_copy(update={"version": version})
    content = io.BytesIO()
    listing.to_parquet(content)
    write_file(folder / manifest.listing, content.getvalue())
    if indexed:
        generation = open_generation(folder, like, manifest)
        embeddings, features = generation.indexed(), generation.features
        recall = choose_probes(embeddings, features, partitions, SHORTLIST, _RECALL_QUERIES)
        manifest = manifest.model_copy(update={"probes": embeddings.probes, "recall": recall})
    write_manifest(folder, manifest)
    return manifest


def _stat(path: str) -> _Stat:
    """Returns a file's size and time; of what is no file, or not there, what no file has."""
    if not path:
        return -1, -1
    try:
        if "://" in path:
            told = epath.Path(path).stat()
            return told.length, int(told.mtime) * 10**9
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    except OSError:  # which reading it will say, too
        return -1, -1


def _numbers_by_key(listing: pd.DataFrame) -> dict[Any, int]:
    """Returns the numbers of rows by what tells rows apart."""
    if listing.empty:
        return {}
    cells = [listing[name].fillna(-1.0).tolist() for name in ("image", "item_id", *BOX)]
    return dict(zip(zip(*cells, strict=True), listing["number"].tolist(), strict=True))


def _thumbnail(picture: np.ndarray) -> bytes:
    small = Image.fromarray(picture)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC, reducing_gap=2.0)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)  # half the time of WebP, and half as large again
    return content.getvalue()


def _mean_colors(pixels: np.ndarray) -> np.ndarray:
    """Returns the mean colors of crops' cells, uint8 [n, cells * cells * 3]."""
    edges = np.arange(COLOR_CELLS) * pixels.shape[1] // COLOR_CELLS
    size = np.diff(edges, append=pixels.shape[1]).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(pixels, edges, 1, np.float32), edges, 2)
    means = sums / (size[:, None, None] * size[None, :, None])
    return np.rint(means).astype(np.uint8).reshape(len(pixels), -1)


def _write_problems(folder: epath.Path, problems: list[str]) -> None:
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["problem"])
    writer.writerows([problem] for problem in problems)
    write_file(folder / "problems.csv", content.getvalue())
