"""The catalog that is live: followed from generation to generation, and ready before it is used."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
from etils import epath

from grnet_jax.catalog.calibrating import Calibration, read_calibration
from grnet_jax.catalog.generations import live_manifest
from grnet_jax.catalog.searching import Catalog
from grnet_jax.inference import LoadedMatcher, load
from grnet_jax.serving.answers import Facet, Item, Shown, Value
from grnet_jax.serving.batching import SIZES, Job, compared_regions, search_together
from input_pipeline import BOX, Box

_SECONDS = 2.0  # between two looks at catalog.json
_MOST_VALUES = 24  # of a field to filter by
_SAMPLES = 12


class LiveCatalog:
    """One generation with what the service answers from.

    Attributes:
      catalog: open.
      facets: fields to filter by.
    """

    def __init__(self, folder: epath.Path, matcher: LoadedMatcher):
        self.catalog = Catalog(folder, matcher)
        listing = self.catalog.generation.listing
        self._numbers = listing["number"].to_numpy()
        self._items = listing["item_id"].to_numpy(object)
        self._contents = listing["content"].to_numpy(object)
        self._rows = {int(number): row for row, number in reversed([*enumerate(self._numbers)])}
        self._by_item = listing.groupby("item_id", sort=False, observed=True).indices
        fields = self.catalog.generation.fields
        made = [_facet(name, cells) for name, cells in fields.items() if name != "item_id"]
        self.facets = [facet for facet in made if facet is not None]

    def row(self, number: int) -> int | None:
        """Returns the row of a photo's number in the listing; None for none."""
        return self._rows.get(number)

    def shown(self, row: int) -> Shown:
        """Returns how clients name a row."""
        number = int(self._numbers[row])
        return Shown(
            item_id=self._items[row],
            number=number,
            thumbnail=f"v1/photos/{number}/thumbnail?of={self.content(row)}",
        )

    def content(self, row: int) -> str:
        """Returns what tells a row's photo from those of other catalogs with its number."""
        return self._contents[row][:16]

    def seen(self, row: int) -> Box:
        """Returns what the matcher saw of a row's photo, as shares of it."""
        generation, matcher = self.catalog.generation, self.catalog.matcher
        height, width = (generation.read(np.array([row]), side)[0] for side in ("height", "width"))
        edges = generation.listing.iloc[row][BOX].to_numpy(float)
        box: Any = None if np.isnan(edges).any() else tuple(edges)
        crop = matcher.transform(shop=True).box(box, height, width)
        return crop[0] / width, crop[1] / height, crop[2] / width, crop[3] / height

    def samples(self) -> list[Shown]:
        """Returns photos of some items, spread over the catalog."""
        firsts = [rows[0] for rows in self._by_item.values()]
        chosen = np.linspace(0, len(firsts) - 1, min(len(firsts), _SAMPLES)).astype(int)
        return [self.shown(int(firsts[place])) for place in chosen]

    def item(self, item: str) -> Item | None:
        """Returns an item; None for none."""
        rows = self._by_item.get(item)
        if rows is None:
            return None
        fields = self.catalog.generation.fields
        known = {name: str(cells[rows[0]]) for name, cells in fields.items() if cells[rows[0]]}
        known.pop("item_id")
        return Item(item_id=item, fields=known, photos=[self.shown(int(row)) for row in rows])

    def warm_up(self, shortlist: int) -> None:
        """Compiles what searches need."""
        matcher = self.catalog.matcher
        size = matcher.config.image.size
        blank = np.zeros((size, size, 3), np.uint8)
        for count in SIZES:
            search_together([Job(self.catalog, blank, {}, 1)] * count, shortlist)
            self.catalog.warm_up(count, shortlist)
        compared_regions(self.catalog, blank, 0, 1)


class Follower:
    """Keeps the live generation: looks for a new one, and changes to it once that is ready.

    Args:
      folder: of the catalog.
      shortlist: photos that a pairwise matcher scores.
    """

    def __init__(self, folder: epath.Path, shortlist: int, matcher: LoadedMatcher | None = None):
        self._folder, self._shortlist, self._matcher = folder, shortlist, matcher
        self.name = folder.name
        self.live: LiveCatalog | None = None
        self.compilations = Compilations()
        self._seen = 0
        self._calibration: Calibration | None = None
        self._stop = threading.Event()

    def follow(self) -> None:
        """Looks every two seconds, until `close`; for a thread of its own."""
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as error:  # what is live stays, and is tried again
                logging.getLogger("uvicorn.error").warning("%s: %s", self._folder, error)
            self._stop.wait(_SECONDS)

    def look(self) -> None:
        """Changes to a new generation, if there is one, or calibration."""
        manifest = live_manifest(self._folder)
        if self.live is not None and manifest.generation == self._seen:
            calibration = read_calibration(self._folder, manifest)
            if calibration != self._calibration:
                self.live.catalog.calibration = self._calibration = calibration
            return
        begun = time.monotonic()
        with self.compilations.expected():
            if self._matcher is None or self._matcher.fingerprint != manifest.model.fingerprint:
                self._matcher = load(manifest.model.run)
            live = LiveCatalog(self._folder, self._matcher)
            live.warm_up(self._shortlist)
        self.live, self._seen = live, live.catalog.manifest.generation
        self._calibration = live.catalog.calibration
        logging.getLogger("uvicorn.error").info(
            "Generation %d is live (%.1f s)", self._seen, time.monotonic() - begun
        )

    def close(self) -> None:
        """Ends `follow`."""
        self._stop.set()


class Compilations:
    """Counts what XLA compiles besides what a generation needs before it is live."""

    def __init__(self) -> None:
        self.count = 0
        self._warming = 0  # the thread that does
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    @contextlib.contextmanager
    def expected(self) -> Iterator[None]:
        """Does not count what this thread compiles."""
        self._warming = threading.get_ident()
        try:
            yield
        finally:
            self._warming = 0

    def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
        expected = self._warming == threading.get_ident()
        self.count += event.endswith("backend_compile_duration") and not expected


def _facet(name: str, cells: pd.Series) -> Facet | None:
    """A field's values where they are few, its range where they are numbers; else None."""
    known = cells[cells != ""].astype(str)
    numbers = pd.to_numeric(known, errors="coerce")
    parts = known.str.split("|").explode()
    counts = parts.value_counts()
    if len(known) and numbers.notna().all() and len(counts) > 2:
        return Facet(name=name, values=[], min=float(numbers.min()), max=float(numbers.max()))
    if not 1 < len(counts) <= _MOST_VALUES:
        return None
    values = [Value(value=str(v), count=int(n)) for v, n in counts.items()]
    return Facet(name=name, values=values)
