"""Speed of searching a catalog: exact in memory and by the index on disk, with filters.

    python -m benchmarks.search_speed --rows=1000000

Embeddings are made up, in clusters, and searched by the code of `grnet_jax.catalog`: a query and a
batch of 16, all rows and those of a filter that 4% and 0.2% pass, with the time of building, the
recall against exact and the process's memory. Beside them, in the same run, NumPy's product and
partition and, where it is installed, faiss's flat index. `--photos` also indexes drawn photos, and
compares their number a second with the decoding's and the embedding's alone. A row is written as it
finishes. Writes benchmarks/results/search_cpu.json.
"""

import importlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from etils import epath
from PIL import Image

from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from grnet_jax.catalog.indexing import IndexOptions, index_catalog
from grnet_jax.inference import load
from grnet_jax.models import Features
from grnet_jax.search.features import InMemoryFeatures
from grnet_jax.search.indexed import IndexedEmbeddings, build_index, choose_probes, exact_nearest
from grnet_jax.search.ranking import SearchResult, local_mesh
from grnet_jax.search.resident import ResidentEmbeddings
from grnet_jax.sharding import make_mesh
from input_pipeline import load_crop

_DIM, _K = 256, 200
_SHARES = {"none": 1.0, "4%": 0.04, "0.2%": 0.002}
_Nearest = Callable[[np.ndarray, np.ndarray | None], SearchResult]


def main() -> None:
    """Measures and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--photos", type=int, default=0, help="drawn photos to index, too")
    options = parser.parse_args()
    command = f"python -m benchmarks.search_speed --rows={options.rows}"
    results = ResultsFile("search_cpu", command, ("engine", "rows", "filter", "batch"))
    embeddings = _draw_embeddings(options.rows)
    query = embeddings[:: max(options.rows // 997, 1)][:200]
    exact = exact_nearest(query[:16], InMemoryFeatures(_features(embeddings)), _K)
    for engine, build in _engines(embeddings).items():
        begun = time.perf_counter()
        if (nearest := build()) is None:
            continue
        built = time.perf_counter() - begun
        found = nearest(query[:16], None)
        recall = float(np.mean(found.scores >= exact.scores[:, -1:] - 1e-5))
        said = {"engine": engine, "rows": options.rows, "build_seconds": built, "recall": recall}
        for row in _measure(nearest, query, options.rows, options.repeats):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            results.add(said | row | {"peak_gb": peak})
    if options.photos:
        results.add(_index_photos(options.photos))
    columns = ["engine", "rows", "filter", "batch", "p50_ms", "p99_ms", "recall", "build_seconds"]
    cells = [[_cell(row.get(name, "")) for name in columns] for row in results.rows]
    results.report(markdown_table(columns, cells))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _features(embeddings: np.ndarray) -> Features:
    return Features(embeddings)  # type: ignore[arg-type]


def _draw_embeddings(rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((max(rows // 500, 1), _DIM), np.float32)
    drawn = centers[rng.integers(0, len(centers), rows)]
    for start in range(0, rows, 65_536):
        part = drawn[start : start + 65_536]
        part += 0.7 * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return drawn


def _measure(nearest: _Nearest, query: np.ndarray, rows: int, repeats: int) -> Iterator[Any]:
    for name, share in _SHARES.items():
        passing = None if share == 1 else np.random.default_rng(1).random(rows) < share
        for batch in (1, 16):
            seconds = []
            for repeat in range(-2, repeats):
                part = query[np.arange(batch) + max(repeat, 0) * batch % (len(query) - batch)]
                begun = time.perf_counter()
                nearest(part, passing)
                seconds.append(time.perf_counter() - begun)
            p50, p99 = (1000 * float(np.quantile(seconds[2:], level)) for level in (0.5, 0.99))
            yield {"filter": name, "batch": batch, "p50_ms": p50, "p99_ms": p99}


def _engines(embeddings: np.ndarray) -> dict[str, Callable[[], _Nearest | None]]:
    def resident() -> _Nearest:
        held = ResidentEmbeddings(embeddings, local_mesh(make_mesh()))
        return lambda query, passing: held.nearest(query, _K, passing)

    def indexed() -> _Nearest:
        path = f"{tempfile.mkdtemp()}/photos.lance"
        flat = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), _DIM)
        table = pa.table({"index": np.arange(len(embeddings)), "embedding": flat})
        dataset = lance.write_dataset(table, path)
        partitions = build_index(dataset)
        features, numbers = InMemoryFeatures(_features(embeddings)), np.arange(len(embeddings))
        held = IndexedEmbeddings(path, lance.dataset(path), numbers, features, 1)
        choose_probes(held, features, partitions, _K, 200)
        return lambda query, passing: held.nearest(query, _K, passing)

    def numpy() -> _Nearest:
        def nearest(query: np.ndarray, passing: np.ndarray | None) -> SearchResult:
            products = query @ embeddings.T
            if passing is not None:
                products[:, ~passing] = -np.inf
            best = np.argpartition(-products, _K, axis=1)[:, :_K]
            return SearchResult(best, np.take_along_axis(products, best, axis=1))

        return nearest

    def faiss() -> _Nearest | None:
        try:
            module = importlib.import_module("faiss")
        except ImportError:
            return None
        index = module.IndexFlatIP(_DIM)
        index.add(embeddings)

        def nearest(query: np.ndarray, passing: np.ndarray | None) -> SearchResult:
            if passing is None:
                return SearchResult(*index.search(query, _K)[::-1])
            selector = module.IDSelectorBatch(np.flatnonzero(passing))
            chosen = module.SearchParameters(sel=selector)
            return SearchResult(*index.search(query, _K, params=chosen)[::-1])

        return nearest

    return {"exact": resident, "index": indexed, "numpy": numpy, "faiss flat": faiss}


def _index_photos(count: int) -> dict[str, Any]:
    """Photos a second of indexing, and of decoding and embedding alone, one after the other."""
    matcher, folder = load("imagenet:efficientnet_lite0"), epath.Path(tempfile.mkdtemp())
    (folder / "photos").mkdir()
    rng, names = np.random.default_rng(0), []
    for number in range(count):
        cells = Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8))
        names.append(str(folder / "photos" / f"{number}.jpg"))
        cells.resize((640, 800), Image.Resampling.BICUBIC).save(names[-1], quality=90)
    transform = matcher.transform(shop=True)
    batch = matcher.config.eval.batch_size
    crops = np.stack([load_crop(name, None, transform).pixels for name in names[:batch]])
    matcher.embed_crops(crops, shop=True)  # compiled
    seconds: dict[str, float] = {}
    for what, run in {
        "decode": lambda: [load_crop(name, None, transform) for name in names],
        "embed": lambda: [matcher.embed_crops(crops, shop=True) for _ in range(0, count, batch)],
        "index": lambda: index_catalog(
            folder / "shop", matcher, IndexOptions(str(folder / "photos"))
        ),
    }.items():
        begun = time.perf_counter()
        run()
        seconds[what] = time.perf_counter() - begun
    rates = {f"{what}_photos_per_second": count / second for what, second in seconds.items()}
    return {"engine": "indexing", "rows": count, "filter": "", "batch": batch, **rates}


if __name__ == "__main__":
    main()
