"""Peak memory and time of ranking against stored galleries of several sizes.

    python -m benchmarks.ranking_memory [--sizes=demo,paper]

For each size of the model and gallery, in a process of its own: a feature store of random
features, which another process wrote, is read and ranked, once against the first blocks, to
compile, and once as a whole. A row has the largest resident memory, what was resident before the
gallery was read, and the whole ranking's seconds by the clock and of the processor, which do not
depend on what else the machine does. Embedding is not measured.
Writes benchmarks/results/ranking_memory_DEVICE.json.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from grnet_jax.retrieval.ranking import make_score, prepare_score, rank_all
from grnet_jax.retrieval.sources import FeatureSource, HeldFeatures, Part
from grnet_jax.retrieval.store import FeatureStore, Origin

from benchmarks.results_file import ROOT, ResultsFile
from configs import grnet
from grnet_jax.models import Features, build_matcher
from grnet_jax.sharding import make_mesh
from grnet_jax.training.state import init_variables

_REGIONS = 24
_WRITTEN_AT_ONCE = 256


class Size(NamedTuple):
    """A model's size and what is ranked with it."""

    dataset: str  # whose config it is
    channels: int
    queries: int
    galleries: tuple[int, ...]


SIZES = {
    "demo": Size("synthetic", 128, 20, (1_000, 10_000, 100_000)),
    "paper": Size("deepfashion_c2s", 1024, 4, (1_000, 10_000)),
}


def main() -> None:
    """Measures every row that is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(SIZES), help="of demo, paper (both)")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(**json.loads(options.write))
        return
    if options.measure:
        print(json.dumps(measure(**json.loads(options.measure))))
        return
    name = f"ranking_memory_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.ranking_memory", ("size", "gallery"))
    for size in options.sizes.split(","):
        for gallery in SIZES[size].galleries:
            if results.find(size=size, gallery=gallery) is None:
                key = {"size": size, "gallery": gallery}
                with tempfile.TemporaryDirectory() as folder:
                    _in_a_process("--write", key | {"folder": folder})
                    measured = json.loads(_in_a_process("--measure", key | {"folder": folder}))
                results.add(key | {"queries": SIZES[size].queries} | measured)
                print(format_rows(results.rows[-1:]).splitlines()[-1], flush=True)
    print(format_rows(results.rows))
    print(f"Wrote {results.path.relative_to(ROOT)}")


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, gigabytes and seconds."""
    lines = [
        "| size | queries | gallery | store GB | resident before GB | peak GB | s | CPU s | "
        "CPU ms a pair |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["size"], row["queries"], f"{row['gallery']:,}", f"{row['store_gb']:.2f}"]
        cells += [f"{row['before_gb']:.2f}", f"{row['peak_gb']:.2f}", f"{row['seconds']:.1f}"]
        each = row["cpu_seconds"] / row["gallery"] / row["queries"]
        cells += [f"{row['cpu_seconds']:.1f}", f"{1000 * each:.3f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def write(size: str, gallery: int, folder: str) -> None:
    """Writes a store of random features."""
    with _store(size, gallery, folder).writer() as writer:
        for start in range(0, gallery, _WRITTEN_AT_ONCE):
            rows = np.arange(start, min(start + _WRITTEN_AT_ONCE, gallery))
            writer.add(rows, _features(len(rows), SIZES[size].channels, seed=start))


def measure(size: str, gallery: int, folder: str) -> dict[str, Any]:
    """Ranks a store's photos; every query has five positives, spread over the gallery."""
    chosen, mesh = SIZES[size], make_mesh(jax.devices()[:1])
    config = grnet.get_config(chosen.dataset)
    matcher = build_matcher(config.model)
    variables = init_variables(matcher, config.data.image_size, seed=0)
    query = HeldFeatures(_features(chosen.queries, chosen.channels, seed=2**32))
    positives = np.random.default_rng(0).integers(0, gallery, (chosen.queries, 5))
    positives.sort(axis=1)
    stored = _store(size, gallery, folder).reader()
    score = make_score(matcher, mesh)
    prepared = prepare_score(matcher, variables, mesh)

    def rank(source: FeatureSource, positives: np.ndarray) -> dict[str, float]:
        clock, processor = time.perf_counter(), time.process_time()
        rank_all(
            score,
            prepared,
            query,
            source,
            positives,
            query_block=chosen.queries,
            gallery_block=config.eval.gallery_block,
            top=config.eval.keep_top,
            mesh=mesh,
        )
        return {
            "seconds": round(time.perf_counter() - clock, 2),
            "cpu_seconds": round(time.process_time() - processor, 2),
        }

    few = Part(stored, np.arange(4 * config.eval.gallery_block))
    rank(few, np.minimum(positives, len(few) - 1))
    before = _resident()
    seconds = rank(stored, positives)
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
    return FeatureStore(f"{folder}/gallery.lance", Origin("random", 0, "random"), names, like)


def _features(count: int, channels: int, seed: int) -> Features:
    regions: Any = np.random.default_rng(seed).random((count, _REGIONS, channels), np.float32)
    return Features(regions[:, 0].copy(), regions)


def _in_a_process(what: str, key: Mapping[str, Any]) -> str:
    command = [sys.executable, "-m", "benchmarks.ranking_memory", what, json.dumps(key)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return (done.stdout.splitlines() or [""])[-1]


def _resident() -> int:
    """Bytes of this process in memory now."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    main()
