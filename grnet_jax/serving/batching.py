"""Requests that wait are searched together, in batches of few sizes."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from grnet_jax.catalog.filters import Filters
from grnet_jax.catalog.searching import Catalog, Match
from grnet_jax.models import Features
from grnet_jax.serving.problems import RefusedError
from grnet_jax.visualization.strongest_nodes import StrongNode, strongest_cells, strongest_nodes

SIZES = (1, 2, 4, 8, 16)
DEEPEST = 4  # shortlists that are compared, for long lists and items with many photos
_WAITING = 64
_DEADLINE = 10.0  # seconds


@dataclasses.dataclass(frozen=True)
class Job:
    """A search.

    Attributes:
      catalog: that was live when it came; it ends on the same one.
      query: uint8 [size, size, 3], what the matcher sees of a photo, or a row of the listing.
      filters: which photos count.
      top_k: items to find.
    """

    catalog: Catalog
    query: np.ndarray | int
    filters: Filters
    top_k: int


class Batcher:
    """Searches what waits, up to 16 at a time, with no delay added.

    Args:
      shortlist: photos that a pairwise matcher scores.
      observe: told the size of each batch.
    """

    def __init__(self, shortlist: int, observe: Callable[[int], object]):
        self._shortlist, self._observe = shortlist, observe
        self._queue: asyncio.Queue[tuple[Job, asyncio.Future]] = asyncio.Queue(_WAITING)
        self._thread = ThreadPoolExecutor(1, "search")

    @property
    def waiting(self) -> int:
        """Returns how many searches wait."""
        return self._queue.qsize()

    async def search(self, job: Job) -> list[Match]:
        """Returns a job's matches.

        Raises:
          RefusedError: too many wait, or it took too long.
        """
        future: asyncio.Future[list[Match]] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((job, future))
        except asyncio.QueueFull:
            text = "too many searches wait: try again in a second"
            raise RefusedError(503, "busy", text, headers={"Retry-After": "1"}) from None
        try:
            return await asyncio.wait_for(future, _DEADLINE)
        except TimeoutError:
            text = f"the search took more than {_DEADLINE:g} s"
            raise RefusedError(504, "deadline", text) from None

    async def call(self, function: Callable, *arguments: object) -> object:
        """Calls a function between batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def run(self) -> None:
        """Searches until it is cancelled."""
        while True:
            taken = [await self._queue.get()]
            while len(taken) < SIZES[-1] and not self._queue.empty():
                taken.append(self._queue.get_nowait())
            taken = [(job, future) for job, future in taken if not future.done()]
            if not taken:
                continue
            self._observe(len(taken))
            try:
                found = await self.call(search_together, [job for job, _ in taken], self._shortlist)
            except Exception as error:
                found = [error] * len(taken)
            for (_, future), matches in zip(taken, found, strict=True):  # type: ignore[call-overload]
                if future.done():
                    continue
                if isinstance(matches, Exception):
                    future.set_exception(matches)
                else:
                    future.set_result(matches)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(cancel_futures=True)


def search_together(jobs: list[Job], shortlist: int) -> list[list[Match]]:
    """Searches for jobs of any catalogs and filters; what fills up a batch repeats its first."""
    found: dict[int, list[Match]] = {}
    catalogs = {id(job.catalog): job.catalog for job in jobs}
    for key, catalog in catalogs.items():
        chosen = [number for number, job in enumerate(jobs) if id(job.catalog) == key]
        queries = _features(catalog, [jobs[number].query for number in chosen])
        groups: dict[str, list[int]] = {}
        for place, number in enumerate(chosen):
            name = json.dumps(jobs[number].filters, sort_keys=True, default=str)
            groups.setdefault(name, []).append(place)
        for places in groups.values():
            rows = np.array(places)[fill(len(places))]
            own = [jobs[chosen[place]] for place in places]
            most = max(job.top_k for job in own)
            query = jax.tree.map(lambda leaf: leaf[rows], queries)  # noqa: B023
            results = catalog.search_features(
                query, own[0].filters, most, shortlist=shortlist, deepest=DEEPEST * shortlist
            )
            for place, job, matches in zip(places, own, results, strict=False):
                found[chosen[place]] = matches[: job.top_k]
    return [found[number] for number in range(len(jobs))]


def compared_regions(
    catalog: Catalog, query: np.ndarray | int, row: int, top: int
) -> list[StrongNode]:
    """Returns the region pairs that count most in the score of a query and a row."""
    pairs = catalog.matcher.region_pairs
    if pairs is None:
        return []
    weights = pairs.weights(_features(catalog, [query]), _features(catalog, [row]))
    if pairs.scales is None:
        return strongest_cells(weights, pairs.map_size, top)
    return strongest_nodes(weights, pairs.scales, pairs.map_size, top)


def fill(count: int) -> np.ndarray:
    """Returns rows 0 to count - 1, and row 0 again up to the next of SIZES."""
    size = next(size for size in SIZES if size >= count)
    return np.where(np.arange(size) < count, np.arange(size), 0)


def _features(catalog: Catalog, queries: list[np.ndarray | int]) -> Features:
    """Embeds crops, and reads what is stored of rows."""
    crops = [number for number, query in enumerate(queries) if isinstance(query, np.ndarray)]
    rows = [number for number, query in enumerate(queries) if not isinstance(query, np.ndarray)]
    parts = []
    if crops:
        pixels = np.stack([queries[number] for number in crops])
        embedded = catalog.matcher.embed_crops(pixels[fill(len(crops))])
        parts.append(jax.tree.map(lambda leaf: leaf[: len(crops)], embedded))
    if rows:
        parts.append(catalog.generation.features.take(np.array([queries[n] for n in rows])))
    order = np.argsort(crops + rows)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *parts)
