"""Speed of searching a catalog: exact in memory and by the index on disk, with filters.

    python -m benchmarks.search_speed --rows=1000000

Made-up embeddings, in clusters, become a catalog on disk, which is searched by its own code: a
query and a batch of 16, in all photos and in those that a filter of 4% and of 0.2% leaves, with the
grouping by item and the folding of copies. Beside them NumPy's product and partition and, where it
is installed, faiss's flat index find the 200 nearest alone. Each has a process of its own, of which
`seconds` is the time until it can search; `recall` is of the 200 nearest that pass the filter.
"update" is the time of replacing 1% of the photos. `--photos` also indexes photos, and compares
their number a second with the decoding's and the embedding's alone. What the results have already
is passed over. Writes benchmarks/results/search_speed_cpu.json.
"""

import importlib
import os
import resource
import tempfile
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import pandas as pd
from etils import epath
from PIL import Image

from benchmarks.results_file import ResultsFile, in_new_process, make_parser, markdown_table
from grnet_jax.catalog.generations import (
    BOX,
    COLOR_CELLS,
    FIELD,
    Manifest,
    Model,
    Photos,
    PhotoTable,
    open_generation,
)
from grnet_jax.catalog.indexing import IndexOptions, index_catalog, publish
from grnet_jax.catalog.searching import Catalog
from grnet_jax.inference import load
from grnet_jax.models import Features
from grnet_jax.search.features import FeatureSubset, read_embeddings
from grnet_jax.search.indexed import exact_nearest
from grnet_jax.search.ranking import local_mesh
from grnet_jax.sharding import make_mesh
from input_pipeline import list_photos, load_crop, ordered_map

_DIM, _K, _BLOCK = 256, 200, 8192
# Fields of so many values each, of which a filter names one.
_FIELDS = {"type": 25, "brand": 500}
_FILTERS: dict[str, dict[str, str]] = {"none": {}, "4%": {"type": "3"}, "0.2%": {"brand": "7"}}
_LIKE: Any = Features(jax.ShapeDtypeStruct((1, _DIM), np.float32))  # type: ignore[arg-type]
_TABLE = "photos-made_up.lance"
_Search = Callable[[np.ndarray, str], Any]  # for queries [q, d], by a filter's name
_Nearest = Callable[[np.ndarray, str], np.ndarray]  # the scores of the nearest, [q, _K]


def main() -> None:
    """Measures and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--photos", type=int, default=0, help="photos to index, too")
    parser.add_argument("--folder", default="", help="that has photos (drawn ones)")
    options = parser.parse_args()
    rows, place = options.rows, tempfile.TemporaryDirectory()
    command = f"python -m benchmarks.search_speed --rows={rows}"
    results = ResultsFile("search_speed_cpu", command, ("engine", "rows", "filter", "batch"))
    missing = [name for name in (*_OPEN, "update") if not results.find(engine=name, rows=rows)]
    with place:
        if missing:
            in_new_process(make_catalog, place=place.name, rows=rows)
        for engine in missing:
            kwargs = {"place": place.name, "rows": rows}
            if engine == "update":
                results.add(in_new_process(update, **kwargs))
                continue
            kwargs |= {"engine": engine, "repeats": options.repeats}
            for row in in_new_process(measure, **kwargs):
                results.add(row)
        if options.photos and not results.find(engine="indexing", rows=options.photos):
            kwargs = {"place": place.name, "count": options.photos, "source": options.folder}
            results.add(in_new_process(index_photos, **kwargs))
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: each engine's p50 and p99 by what is asked; below, what indexing takes."""
    timed = [row for row in rows if "p50_ms" in row]
    kinds = list(dict.fromkeys((row["batch"], row["filter"]) for row in timed))
    kinds.sort(key=lambda kind: kind[0])
    lines = []
    for engine, count in dict.fromkeys((row["engine"], row["rows"]) for row in timed):
        own = [row for row in timed if (row["engine"], row["rows"]) == (engine, count)]
        cells = {(row["batch"], row["filter"]): row for row in own}
        waits = [f"{cells[kind]['p50_ms']:.0f} / {cells[kind]['p99_ms']:.0f}" for kind in kinds]
        recall = min(row["recall"] for row in own)
        first = own[0]
        cost = (f"{recall:.2f}", f"{first['seconds']:.1f}", f"{first['peak_gb']:.1f}")
        lines.append([engine, f"{count:,}", *waits, *cost])
    titles = [
        f"{'one query' if batch == 1 else f'{batch} at once'}"
        + (f", filter of {kept}" if kept != "none" else "")
        for batch, kept in kinds
    ]
    header = ("p50 / p99 in ms", "photos", *titles, "least recall", "start, s", "GB")
    told = [_describe(row) for row in rows if row not in timed]
    return "\n".join([markdown_table(header, lines), *told])


def _describe(row: dict[str, Any]) -> str:
    """A sentence on the time of an update, or of indexing photos."""
    if row["engine"] == "update":
        return f"Replacing 1% of {row['rows']:,} photos takes {row['seconds']:.1f} s."
    return (
        f"Of {row['rows']:,} photos {row['index_photos_per_second']:.0f} a second are indexed, "
        f"{100 * row['share_of_bare_rate']:.0f}% of what decoding and embedding alone allow."
    )


def make_catalog(place: str, rows: int) -> None:
    """Writes a catalog of made-up photos, and how near the nearest are to the queries."""
    folder, numbers = epath.Path(place), np.arange(rows)
    _add(PhotoTable(folder / _TABLE, "made up", _LIKE, "float32"), numbers, rows)
    _publish(folder, 1, numbers)
    features, query = open_generation(folder, _LIKE).features, _draw_queries(rows)[:16]
    for name, found in _passing(numbers).items():
        part = FeatureSubset(features, np.flatnonzero(found))
        np.save(folder / f"{name}.npy", exact_nearest(query, part, min(_K, len(part))).scores)


def measure(place: str, engine: str, rows: int, repeats: int) -> list[dict[str, Any]]:
    """Measures an engine; returns nothing where it is not installed."""
    query = _draw_queries(rows)
    begun = time.perf_counter()
    if (opened := _OPEN[engine](epath.Path(place), rows)) is None:
        return []
    (search, nearest), seconds = opened, time.perf_counter() - begun
    recall = {}
    for name in _FILTERS:
        exact = np.load(epath.Path(place) / f"{name}.npy")
        found = np.sort(nearest(query[:16], name))[:, -exact.shape[1] :]
        recall[name] = float(np.mean(found >= exact[:, -1:] - 1e-5))
    times = [
        {"filter": name, "batch": batch, "recall": recall[name]}
        | _time(search, query, name, batch, repeats)
        for name in _FILTERS
        for batch in (1, 16)
    ]
    same = {"engine": engine, "rows": rows, "seconds": seconds}
    return [same | row | {"peak_gb": _peak_gb()} for row in times]


def update(place: str, rows: int) -> dict[str, Any]:
    """Replaces 1% of the photos as indexing does after embedding, and opens the catalog."""
    folder = epath.Path(place)
    begun = time.perf_counter()
    table = PhotoTable(folder / _TABLE, "made up", _LIKE, "float32")
    table.numbers()
    _add(table, np.arange(rows, rows + rows // 100), rows)
    _publish(folder, 3, np.arange(rows // 100, rows + rows // 100))
    table.clean(2)
    seconds = time.perf_counter() - begun
    same = {"engine": "update", "rows": rows, "filter": "", "batch": 1}
    return same | {"seconds": seconds, "peak_gb": _peak_gb()}


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _time(search: _Search, query: np.ndarray, name: str, batch: int, repeats: int) -> dict:
    seconds = []
    for repeat in range(-2, repeats):
        part = query[np.arange(batch) + max(repeat, 0) * batch % (len(query) - batch)]
        begun = time.perf_counter()
        search(part, name)
        seconds.append(time.perf_counter() - begun)
    p50, p99 = (1000 * float(np.quantile(seconds[2:], level)) for level in (0.5, 0.99))
    return {"p50_ms": p50, "p99_ms": p99}


def _features(embeddings: np.ndarray) -> Features:
    return Features(embeddings)  # type: ignore[arg-type]


def _draw(rng: np.random.Generator, count: int, rows: int) -> np.ndarray:
    """Embeddings float32 [count, d] in the clusters of a catalog of so many rows."""
    centers = np.random.default_rng(0).standard_normal((max(rows // 500, 1), _DIM), np.float32)
    drawn = centers[rng.integers(0, len(centers), count)]
    drawn += 0.7 * rng.standard_normal(drawn.shape, np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _draw_queries(rows: int) -> np.ndarray:
    return _draw(np.random.default_rng(1), 200, rows)


def _draw_fields(numbers: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: rng.integers(0, k, numbers.max() + 1)[numbers] for name, k in _FIELDS.items()}


def _add(table: PhotoTable, numbers: np.ndarray, rows: int) -> None:
    rng = np.random.default_rng(3 + int(numbers[0]))
    for start in range(0, len(numbers), _BLOCK):
        part = numbers[start : start + _BLOCK]
        n = len(part)
        colors = rng.integers(0, 256, (n, 3 * COLOR_CELLS**2), np.uint8)
        states = [f"{number:032x}" for number in part]
        photos = Photos(states, np.full((n, 2), 800, np.int32), [b""] * n, colors)
        table.add(part, _features(_draw(rng, n, rows)), photos)
    table.flush()


def _publish(folder: epath.Path, generation: int, numbers: np.ndarray, indexed: bool = False):
    """Lists photos, two an item, and makes them the catalog."""
    listing = pd.DataFrame({"number": numbers, "image": [f"{n}.jpg" for n in numbers], "path": ""})
    listing["item_id"] = [f"item {n // 2}" for n in numbers]
    listing = listing.assign(**dict.fromkeys(BOX, np.nan), file_size=1, file_time=1, content="")
    for name, values in _draw_fields(numbers).items():
        listing[FIELD + name] = values.astype(str)
    model = Model(run="", name="made up", step=0, fingerprint="made up", dtype="float32")
    manifest = Manifest(
        generation=generation, indexed_at="", source="", splits=[], model=model, table=_TABLE,
        version=1, rows=len(numbers), items=len(numbers) // 2, next=numbers.max() + 1, counts={},
    )  # fmt: skip
    table = PhotoTable(folder / _TABLE, "made up", _LIKE, "float32")
    publish(folder, table, manifest, listing, _LIKE, indexed)


def _open_catalog(folder: epath.Path, _: int) -> tuple[_Search, _Nearest]:
    matcher: Any = types.SimpleNamespace(  # what a catalog asks of its matcher
        feature_shapes=lambda: _LIKE,
        fingerprint="made up",
        step=0,
        mesh=local_mesh(make_mesh()),
        pair_scores=None,
    )
    catalog = Catalog(folder, matcher)

    def search(query: np.ndarray, name: str) -> object:
        return catalog.search_features(_features(query), _FILTERS[name])

    passing = _passing(catalog.generation.listing["number"].to_numpy())
    return search, lambda query, name: catalog._embeddings.nearest(query, _K, passing[name]).scores


def _open_index(folder: epath.Path, rows: int) -> tuple[_Search, _Nearest]:
    _publish(folder, 2, np.arange(rows), indexed=True)
    return _open_catalog(folder, rows)


def _passing(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Which photos pass each filter, bool [n]."""
    fields = _draw_fields(numbers)
    return {
        name: np.all([numbers >= 0, *(fields[k] == int(v) for k, v in wanted.items())], axis=0)
        for name, wanted in _FILTERS.items()
    }


def _read(folder: epath.Path) -> np.ndarray:
    return read_embeddings(open_generation(folder, _LIKE).features)


def _open_numpy(folder: epath.Path, rows: int) -> tuple[_Search, _Nearest]:
    embeddings, passing = _read(folder), _passing(np.arange(rows))

    def nearest(query: np.ndarray, name: str) -> np.ndarray:
        products = query @ embeddings.T
        if _FILTERS[name]:
            products[:, ~passing[name]] = -np.inf
        best = np.argpartition(-products, _K, axis=1)[:, :_K]
        return np.take_along_axis(products, best, axis=1)

    return nearest, nearest


def _open_faiss(folder: epath.Path, rows: int) -> tuple[_Search, _Nearest] | None:
    try:
        module = importlib.import_module("faiss")
    except ImportError:
        return None
    embeddings, passing = _read(folder), _passing(np.arange(rows))
    index = module.IndexFlatIP(_DIM)
    index.add(embeddings)
    bits = {name: np.packbits(found, bitorder="little") for name, found in passing.items()}
    selected = {name: module.IDSelectorBitmap(found) for name, found in bits.items()}

    def nearest(query: np.ndarray, name: str) -> np.ndarray:
        chosen = None
        if _FILTERS[name]:
            chosen = module.SearchParameters(sel=selected[name])
        return index.search(query, _K, params=chosen)[0]

    return nearest, nearest


_OPEN: dict[str, Callable[[epath.Path, int], tuple[_Search, _Nearest] | None]] = {
    "exact": _open_catalog,
    "index": _open_index,
    "numpy": _open_numpy,
    "faiss flat": _open_faiss,
}


def index_photos(place: str, count: int, source: str) -> dict[str, Any]:
    """Photos a second of indexing, and of decoding and embedding alone, one after the other."""
    matcher, folder = load("imagenet:efficientnet_lite0"), epath.Path(place) / "photos"
    names = _save_photos(folder, count, source)
    transform, batch = matcher.transform(shop=True), matcher.config.eval.batch_size
    crops = np.stack([load_crop(name, None, transform).pixels for name in names[:batch]])
    matcher.embed_crops(crops, shop=True)  # compiled

    def decode() -> None:
        with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
            for _ in ordered_map(pool, lambda name: load_crop(name, None, transform), names, batch):
                pass

    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}  # on a machine that others use these compare better
    for what, run in {
        "decode": decode,
        "embed": lambda: [matcher.embed_crops(crops, shop=True) for _ in range(0, count, batch)],
        "index": lambda: index_catalog(
            epath.Path(place) / "shop", matcher, IndexOptions(str(folder))
        ),
    }.items():
        begun, used = time.perf_counter(), time.process_time()
        run()
        seconds[what], cpu[what] = time.perf_counter() - begun, time.process_time() - used
    rates = {f"{what}_photos_per_second": count / second for what, second in seconds.items()}
    share, cpu_share = ((t["decode"] + t["embed"]) / t["index"] for t in (seconds, cpu))
    same = {"engine": "indexing", "rows": count, "filter": "", "batch": batch}
    return (
        same
        | rates
        | {
            "share_of_bare_rate": share,
            "share_of_bare_cpu": cpu_share,
            "peak_gb": _peak_gb(),
        }
    )


def _save_photos(folder: epath.Path, count: int, source: str) -> list[str]:
    """Writes photos of different bytes, drawn or of a folder again and again."""
    folder.mkdir()
    rng, found = np.random.default_rng(0), []
    if source:
        found = [epath.Path(path).read_bytes() for path in list_photos(source).table["path"]]
    names = [str(folder / f"{number}.jpg") for number in range(count)]
    for number, name in enumerate(names):
        if found:  # what follows the picture is not read
            content = found[number % len(found)] + number.to_bytes(4, "big")
            epath.Path(name).write_bytes(content)
            continue
        cells = Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8))
        cells.resize((640, 800), Image.Resampling.BICUBIC).save(name, quality=90)
    return names


if __name__ == "__main__":
    main()
