"""Peak memory and time of ranking against stored galleries of several sizes.

    python -m benchmarks.ranking_memory [--sizes=small,paper] [--queries=1000] [--galleries=...]

For each size of the model and gallery, in a process of its own: a feature store of random
features, which another process wrote, is read and ranked, once with few queries and images, to
compile, and once as a whole. A row has the largest resident memory, what was resident before the
gallery was read, and the whole ranking's seconds by the clock and of the processor, which do not
depend on what else the machine does. Embedding is not measured.
Writes benchmarks/results/ranking_memory_DEVICE.json.
"""

import pathlib
import resource
import tempfile
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.results_file import ResultsFile, in_new_process, make_parser, markdown_table
from configs import grnet
from grnet_jax.config import parse_config
from grnet_jax.models import Features, build_matcher
from grnet_jax.search.features import FeatureSource, FeatureSubset, InMemoryFeatures
from grnet_jax.search.fingerprints import Fingerprint
from grnet_jax.search.ranking import ExhaustiveSearch, make_score, rank
from grnet_jax.search.store import FeatureStore
from grnet_jax.sharding import make_mesh
from grnet_jax.training.state import init_variables

_REGIONS = 24
_WRITTEN_AT_ONCE = 256
_HEADER = (
    *("size", "queries", "gallery", "store GB", "resident before GB"),
    *("peak GB", "s", "CPU s", "CPU ms a pair"),
)
_FEW_QUERIES, _FEW_IMAGES = 64, 256  # that compile what all of them need


class Size(NamedTuple):
    """A model's size and what is ranked with it."""

    dataset: str  # whose config it is
    channels: int
    queries: int
    galleries: tuple[int, ...]


SIZES = {
    "small": Size("synthetic", 128, 20, (1_000, 10_000, 100_000)),
    "paper": Size("deepfashion_c2s", 1024, 4, (1_000, 10_000)),
}


def main() -> None:
    """Measures every row that is missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default=",".join(SIZES), help="of small, paper (both)")
    parser.add_argument("--queries", type=int, help="(small: 20, paper: 4)")
    parser.add_argument("--galleries", help="(small: 1000,10000,100000, paper: 1000,10000)")
    options = parser.parse_args()
    name = f"ranking_memory_{jax.default_backend()}"
    results = ResultsFile(
        name, "python -m benchmarks.ranking_memory", ("size", "queries", "gallery")
    )
    for size in options.sizes.split(","):
        queries = options.queries or SIZES[size].queries
        galleries = options.galleries.split(",") if options.galleries else SIZES[size].galleries
        for gallery in map(int, galleries):
            key = {"size": size, "queries": queries, "gallery": gallery}
            if results.find(**key) is None:
                with tempfile.TemporaryDirectory() as folder:
                    in_new_process(write, size=size, gallery=gallery, folder=folder)
                    results.add(key | in_new_process(measure, folder=folder, **key))
                print(format_rows(results.rows[-1:]).splitlines()[-1], flush=True)
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, gigabytes and seconds."""
    lines = []
    for row in rows:
        cells = [row["size"], row["queries"], f"{row['gallery']:,}", f"{row['store_gb']:.2f}"]
        cells += [f"{row['before_gb']:.2f}", f"{row['peak_gb']:.2f}", f"{row['seconds']:.1f}"]
        each = row["cpu_seconds"] / row["gallery"] / row["queries"]
        lines.append([*cells, f"{row['cpu_seconds']:.1f}", f"{1000 * each:.3f}"])
    return markdown_table(_HEADER, lines)


def write(size: str, gallery: int, folder: str) -> None:
    """Writes a store of random features."""
    with _store(size, gallery, folder).writer() as writer:
        for start in range(0, gallery, _WRITTEN_AT_ONCE):
            rows = np.arange(start, min(start + _WRITTEN_AT_ONCE, gallery))
            writer.add(rows, _features(len(rows), SIZES[size].channels, seed=start))


def measure(size: str, queries: int, gallery: int, folder: str) -> dict[str, Any]:
    """Ranks a store's images; every query has five positives, spread over the gallery."""
    chosen, mesh = SIZES[size], make_mesh(jax.devices()[:1])
    config = parse_config(grnet.get_config(chosen.dataset))
    matcher = build_matcher(config.model)
    score = make_score(matcher, mesh)(init_variables(matcher, config.image.size, seed=0))
    query = InMemoryFeatures(_features(queries, chosen.channels, seed=2**32))
    positives = np.sort(np.random.default_rng(0).integers(0, gallery, (queries, 5)), axis=1)
    stored = _store(size, gallery, folder).reader()

    def rank_images(images: FeatureSource, count: int) -> dict[str, float]:
        search = ExhaustiveSearch(score, images, mesh, config.eval.search.top_k)
        chosen_query = FeatureSubset(query, np.arange(min(count, queries)))
        right = np.minimum(positives[:count], len(images) - 1)
        clock, processor = time.perf_counter(), time.process_time()
        rank(search, chosen_query, right)
        return {
            "seconds": round(time.perf_counter() - clock, 2),
            "cpu_seconds": round(time.process_time() - processor, 2),
        }

    rank_images(FeatureSubset(stored, np.arange(_FEW_IMAGES)), _FEW_QUERIES)
    before = _resident()
    seconds = rank_images(stored, queries)
    files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    return {
        "store_gb": round(sum(path.stat().st_size for path in files) / 1e9, 4),
        "before_gb": round(before / 1e9, 4),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 4),
        **seconds,
    }


def _store(size: str, gallery: int, folder: str) -> FeatureStore:
    names = np.array([f"{number:07d}" for number in range(gallery)])
    like = _features(1, SIZES[size].channels, seed=0)
    return FeatureStore(f"{folder}/gallery.lance", Fingerprint("random", 0, "random"), names, like)


def _features(count: int, channels: int, seed: int) -> Features:
    regions: Any = np.random.default_rng(seed).random((count, _REGIONS, channels), np.float32)
    return Features(regions[:, 0].copy(), regions)


def _resident() -> int:
    """Bytes of this process in memory now."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    main()
