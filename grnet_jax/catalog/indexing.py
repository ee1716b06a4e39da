"""Brings a catalog up to date with its photos: only what is new or changed is embedded."""

import csv
import dataclasses
import io
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np
import pandas as pd
from etils import epath

from grnet_jax.catalog import on_ray
from grnet_jax.catalog.embedding import Embedding, Files, Read
from grnet_jax.catalog.generations import (
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
from input_pipeline import BOX, PhotoList, check_folder, list_photos, write_file

SHORTLIST = 200  # photos nearest by embedding that a pairwise matcher scores
_RECALL_QUERIES = 200  # that an index is tried with


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
      ray: address of the Ray cluster that embeds, "local" for one of this machine; "" for this
        process.
    """

    source: str
    splits: tuple[str, ...] = ()
    run: str = ""
    max_bad: float = 0.05
    reread: bool = False
    rebuild: bool = False
    memory_gb: float = float("inf")
    ray: str = ""


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
        self._table_name = self._choose_table()
        self._table = PhotoTable(
            folder / self._table_name,
            f"{matcher.fingerprint} of step {matcher.step}",
            matcher.feature_shapes(),
            matcher.config.eval.search.store_dtype,
        )
        self._numbers = self._table.numbers()
        self._next = max([before.next if before else 0, *(n + 1 for n in self._numbers.values())])

    def run(self) -> Manifest:
        """Embeds, lists and publishes."""
        found = self._read_all()
        sources = self._photos.table["source"]
        problems = [f"{sources[read.row]}: {read.error}" for read in found if read.error]
        total = len(found) + len(self._photos.problems)
        bad = len(self._photos.problems) + len(problems)
        listed = [f"{problem.source}: {problem.text}" for problem in self._photos.problems]
        listed += problems
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
        if self._before and not self._options.rebuild:
            return self._before.table
        name = f"photos-{self._matcher.fingerprint[:8]}"
        if self._before and self._before.table.startswith(name):
            name += f"-{self._generation}"
        return f"{name}.lance"

    def _known_files(self) -> Files:
        """Returns the digests of files as they were when last indexed."""
        if self._options.reread or self._listed_before.empty:
            return {}
        columns = zip(
            *(self._listed_before[name].tolist() for name in ["path", *FILE]), strict=True
        )
        return {path: ((size, time), content) for path, size, time, content in columns if path}

    def _read_all(self) -> list[Read]:
        """Reads every row's photo, and adds those to the table that it has not yet."""
        count = len(self._photos.table)
        found = [Read(row) for row in range(count)]
        options, known = self._options, (self._known_files(), self._numbers)
        if options.ray:
            model = options.run, self._matcher.fingerprint
            parts = on_ray.embed(options.ray, options.source, options.splits, *model, *known, count)
        else:
            parts = Embedding(self._matcher, self._photos, *known)(range(count))
        with progress_bar(count, "index", "photo") as bar:
            for part in parts:
                for read in part.reads:
                    found[read.row] = read
                bar.update(len(part.reads))
                if part.photos and part.features:
                    self._add(part.photos, part.features)
        self._table.flush()
        return found

    def _add(self, photos: Photos, features: Features) -> None:
        numbers = np.arange(self._next, self._next + len(photos.states))
        # Of a photo that was embedded twice at once the last one is listed.
        self._numbers.update(zip(photos.states, numbers.tolist(), strict=True))
        self._next += len(numbers)
        self._table.add(numbers, features, photos)

    def _list(self, found: list[Read]) -> pd.DataFrame:
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


def _numbers_by_key(listing: pd.DataFrame) -> dict[Any, int]:
    """Returns the numbers of rows by what tells rows apart."""
    if listing.empty:
        return {}
    cells = [listing[name].fillna(-1.0).tolist() for name in ("image", "item_id", *BOX)]
    return dict(zip(zip(*cells, strict=True), listing["number"].tolist(), strict=True))


def _write_problems(folder: epath.Path, problems: list[str]) -> None:
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["problem"])
    writer.writerows([problem] for problem in problems)
    write_file(folder / "problems.csv", content.getvalue())
