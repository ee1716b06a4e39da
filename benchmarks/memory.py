"""Peak memory of a training step against the batch, whole and with pairs in chunks.

    python -m benchmarks.memory [--sizes=small,paper]

For each batch and `model.gallery_chunk`, in a process of its own: what XLA plans for the step
(arguments, results and temporaries; from the compiled step, so it is known also where it does
not fit), and, where that fits this machine and takes minutes at most, the largest resident
memory over three real steps, the seconds of the last and the losses. Images are random.
Writes benchmarks/results/memory_DEVICE.json.
"""

import resource
import time
from typing import Any

import jax
import numpy as np

from benchmarks.results_file import ResultsFile, in_new_process, make_parser, markdown_table
from benchmarks.training_step import build_step, planned_bytes, random_batch
from configs import grnet
from grnet_jax.search.features import machine_memory

_BATCHES = (32, 64, 128, 256)
_CHUNKS = (0, 8)
# Pairs x D a real step may have: above, one takes many minutes on two cores.
_MOST_WORK = 256 * 256 * 64
_SHARE_OF_MEMORY = 0.7
_HEADER = (
    *("size", "items", "pairs", "gallery chunk"),
    *("planned GB", "resident GB", "s/step", "loss"),
)


def main() -> None:
    """Measures every row that is missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default="small,paper", help="of small, paper (both)")
    options = parser.parse_args()
    name = f"memory_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.memory", ("size", "items", "gallery_chunk"))
    for size in options.sizes.split(","):
        for items in _BATCHES:
            for chunk in _CHUNKS:
                key = {"size": size, "items": items, "gallery_chunk": chunk}
                if results.find(**key) is None:
                    results.add(key | in_new_process(measure, **key))
                    print(format_rows(results.rows[-1:]).splitlines()[-1], flush=True)
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, gigabytes and seconds."""
    lines = []
    for row in rows:
        real = ["-"] * 3
        if row["losses"]:
            first, last = row["losses"][0], row["losses"][-1]
            real = [
                f"{row['resident_gb']:.1f}",
                f"{row['seconds']:.1f}",
                f"{first:.3f} → {last:.3f}",
            ]
        cells = [row["size"], row["items"], f"{row['items'] ** 2:,}", row["gallery_chunk"] or "all"]
        lines.append([*cells, f"{row['planned_gb']:.1f}", *real])
    return markdown_table(_HEADER, lines)


def measure(size: str, items: int, gallery_chunk: int) -> dict[str, Any]:
    """Compiles the step, and runs it where it fits."""
    config = grnet.get_config("synthetic" if size == "small" else "deepfashion_c2s")
    config.train.batch_size = items
    config.model.gallery_chunk = gallery_chunk
    run, step = build_step(config)
    side = config.image.size
    images = jax.ShapeDtypeStruct((items, side, side, 3), np.uint8)
    item = jax.ShapeDtypeStruct((items,), np.int32)
    batch = {"customer": images, "shop": images, "item": item, "content": item}
    planned = planned_bytes(run, step, batch)
    row: dict[str, Any] = {"planned_gb": round(planned / 1e9, 3), "losses": []}
    work = items**2 * config.model.node_dim
    if planned > _SHARE_OF_MEMORY * machine_memory() or work > _MOST_WORK:
        return row
    placed = random_batch(run)
    state = run.create_state()
    for _ in range(3):
        started = time.perf_counter()
        state, metrics = step(state, placed)
        row["losses"].append(round(float(metrics["loss"]), 5))
        row["seconds"] = round(time.perf_counter() - started, 3)
    if not np.all(np.isfinite(row["losses"])):
        raise FloatingPointError(f"{size}, {items} items: losses {row['losses']}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return row | {"resident_gb": round(peak / 1e9, 3)}


if __name__ == "__main__":
    main()
