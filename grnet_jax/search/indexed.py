"""The nearest embeddings by an index in their table, for more of them than memory holds."""

import lance
import numpy as np

from grnet_jax.search.columns import StoreError, naming
from grnet_jax.search.features import FeatureSource, FeatureSubset, read_blocks
from grnet_jax.search.ranking import SearchResult

RECALL = 0.98  # of the nearest that an index has to find, else it is refused
_FIRST_PROBES = 20
_BLOCK_ROWS = 16_384
# Photos that pass a filter are read one by one up to so many, or to one of so many for each query:
# measured, the rest is as fast from all partitions of the index, for one query and for 16.
_FEW_ROWS, _ALONE = 1000, 200
_COLUMN = "embedding"


def build_index(dataset: lance.LanceDataset) -> int:
    """Builds the index of a table's embeddings anew; returns the number of its partitions."""
    partitions = max(1, round(dataset.count_rows() ** 0.5))
    dataset.create_index(_COLUMN, "IVF_FLAT", metric="dot", num_partitions=partitions, replace=True)
    return partitions


def exact_nearest(query: np.ndarray, embeddings: FeatureSource, k: int) -> SearchResult:
    """Finds the highest inner products [q, k], reading all embeddings once."""
    indices: np.ndarray = np.full((len(query), k), -1, np.int64)
    scores: np.ndarray = np.full((len(query), k), -np.inf, np.float32)
    size = min(len(embeddings), _BLOCK_ROWS)
    for start, count, block in read_blocks(embeddings.embeddings(), size):
        products = query @ np.asarray(block.embedding[:count], np.float32).T
        rows = np.broadcast_to(np.arange(start, start + count), products.shape)
        scores, indices = np.hstack([scores, products]), np.hstack([indices, rows])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equal ones the lower row
        scores, indices = (np.take_along_axis(part, order, 1) for part in (scores, indices))
    return SearchResult(indices.astype(np.int32), scores)


class IndexedEmbeddings:
    """Embeddings on disk with an index; searched as `ResidentEmbeddings` are.

    Args:
      path: of the table, for errors.
      dataset: the table.
      numbers: int [n], which photo of the table each image is.
      features: of the n images.
      probes: partitions that are searched.
    """

    def __init__(
        self,
        path: str,
        dataset: lance.LanceDataset,
        numbers: np.ndarray,
        features: FeatureSource,
        probes: int,
    ):
        self._path, self._dataset, self._features = path, dataset, features
        self._rows = np.argsort(numbers, kind="stable")
        self._numbers = numbers[self._rows]
        self.probes = probes

    def __len__(self) -> int:
        return len(self._numbers)

    def nearest(self, query: np.ndarray, k: int, passing: np.ndarray | None = None) -> SearchResult:
        """Finds images as `ResidentEmbeddings.nearest` does, of those in the probed partitions.

        With a filter the nearest that pass are in more partitions than were tried: all are read.
        """
        count = len(self) if passing is None else int(passing.sum())
        if passing is not None and count <= max(_FEW_ROWS, len(query) * len(self) // _ALONE):
            rows = np.flatnonzero(passing)
            if not count:
                return SearchResult(*_padded([], [], k, len(query)))
            found = exact_nearest(query, FeatureSubset(self._features, rows), k)
            return SearchResult(np.where(found.indices < 0, -1, rows[found.indices]), found.scores)
        results = [self._nearest(one, k, passing, count) for one in query]
        indices, scores = (np.stack(part) for part in zip(*results, strict=True))
        return SearchResult(indices.astype(np.int32), scores)

    def _nearest(
        self, query: np.ndarray, k: int, passing: np.ndarray | None, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """One query's rows and scores, [k]; more are fetched until enough of them pass."""
        fetched, probes = k, self.probes
        if passing is not None:  # a quarter more than pass on average
            fetched, probes = min(5 * k * len(self) // (4 * count), len(self)), len(self)
        while True:
            rows, scores, complete = self._fetch(query, fetched, probes)
            if passing is not None:
                rows, scores = rows[passing[rows]], scores[passing[rows]]
            if len(rows) >= k or complete:
                indices, best = _padded(rows[:k], scores[:k], k, 1)
                return indices[0], best[0]
            fetched = min(2 * fetched, len(self))

    def _fetch(self, query: np.ndarray, k: int, probes: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Rows and scores of the nearest photos, and whether there are no more."""
        with naming(self._path):
            nearest = {"column": _COLUMN, "q": query, "k": k, "nprobes": probes}
            # Without the distance among the columns Lance logs a line a query.
            table = self._dataset.scanner(["index", "_distance"], nearest=nearest).to_table()
        numbers = table["index"].to_numpy()
        low, high = (np.searchsorted(self._numbers, numbers, side) for side in ("left", "right"))
        times = high - low  # a photo may be of several images
        starts = np.repeat(low - np.concatenate([[0], np.cumsum(times)[:-1]]), times)
        rows = self._rows[starts + np.arange(times.sum())]
        scores = np.repeat(1 - table["_distance"].to_numpy(), times).astype(np.float32)
        return rows, scores, len(numbers) < k or k >= len(self)


def choose_probes(
    embeddings: IndexedEmbeddings, features: FeatureSource, partitions: int, k: int, queries: int
) -> float:
    """Sets how many partitions are probed, as few as find enough; returns the share that is found.

    Args:
      embeddings: with the index.
      features: the same images'.
      partitions: of the index.
      k: nearest images that are asked for.
      queries: images of their own that are asked with.

    Raises:
      StoreError: even all partitions do not find RECALL of them.
    """
    rows = np.random.default_rng(0).permutation(len(features))[:queries]
    query = np.asarray(features.embeddings().take(np.sort(rows)).embedding, np.float32)
    exact = exact_nearest(query, features, min(k, len(features)))

    def recall() -> float:
        found = embeddings.nearest(query, exact.scores.shape[1])
        # By scores: of equal embeddings any are right.
        return float(np.mean(found.scores >= exact.scores[:, -1:] - 1e-5))

    embeddings.probes = min(_FIRST_PROBES, partitions)
    while (found := recall()) < RECALL:
        if embeddings.probes >= partitions:
            raise StoreError(
                f"the index finds {found:.2f} of the nearest photos, less than {RECALL}: index "
                "with a larger --memory_gb, which compares all"
            )
        embeddings.probes = min(2 * embeddings.probes, partitions)
    return found


def _padded(rows: np.ndarray | list, scores: np.ndarray | list, k: int, q: int) -> tuple:
    missing = ((0, 0), (0, k - len(rows)))
    indices = np.tile(np.asarray(rows, np.int32), (q, 1))
    best = np.tile(np.asarray(scores, np.float32), (q, 1))
    return np.pad(indices, missing, constant_values=-1), np.pad(
        best, missing, constant_values=-np.inf
    )
