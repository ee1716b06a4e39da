"""A large synthetic set, prepared and then streamed once: time and peak memory.

    python -m benchmarks.large_set [--photos=200000] [--data_dir=data/large]

Preparing renders the photos in as many processes as there are cores. Streaming takes every photo
of train once, at 64 pixels, as training does. Memory is what all processes of a step hold together
(proportional set size), sampled every half second; Linux alone tells it. Each step is skipped
where it has its row in benchmarks/results/large_set_cpu.json.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table
from input_pipeline import (
    AugmentConfig,
    DatasetConfig,
    ImageConfig,
    SamplerConfig,
    load_dataset,
    steps_per_epoch,
    train_batches,
)
from input_pipeline.config import PrepareOptions

_PHOTOS_OF_AN_ITEM = 4  # a shop photo and three of customers
_BATCH = 64
_SIZE = 64  # pixels
_MB = 1e6


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--photos", type=int, default=200_000, help="of train (200000)")
    parser.add_argument("--data_dir", default="data/large", help="of its own (data/large)")
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    items = options.photos // _PHOTOS_OF_AN_ITEM
    if options.stream:
        stream(items, options.data_dir)
        return
    results = ResultsFile("large_set_cpu", "python -m benchmarks.large_set", ("step", "photos"))
    commands = {
        "prepare": [
            *("input_pipeline.prepare", "--dataset=synthetic"),
            *(f"--items={items}", f"--dir={options.data_dir}"),
        ],
        "stream": [
            *("benchmarks.large_set", "--stream"),
            *(f"--photos={options.photos}", f"--data_dir={options.data_dir}"),
        ],
    }
    for step, command in commands.items():
        if results.find(step=step, photos=options.photos) is None:
            row = measure([sys.executable, "-m", *command])
            results.add({"step": step, "photos": options.photos, **row})
    results.report(format_rows(results.rows))


def measure(command: Sequence[str]) -> dict[str, float]:
    """Runs a command; its seconds, those of its processors, and its peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    peak = 0.0
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak / _MB),
        "load_average": round(os.getloadavg()[1], 1),
    }


def stream(items: int, data_dir: str) -> None:
    """Takes every photo of train once."""
    sampler = SamplerConfig(name="images")
    image = ImageConfig(size=_SIZE, interpolation="bilinear", center_fraction=1.0)
    dataset = load_dataset(DatasetConfig(dir=data_dir), PrepareOptions(items=items))
    split = dataset.split("train")
    steps = steps_per_epoch(split, sampler, _BATCH)
    batches = train_batches(
        split, image, AugmentConfig(), sampler, batch_size=_BATCH, start_step=0, steps=steps, seed=0
    )
    images = sum(np.shape(batch["image"])[0] for batch in batches)
    print(f"Streamed {images:,} photos in {steps:,} batches")


def format_rows(rows: list[dict]) -> str:
    """A Markdown table."""
    lines = [
        [
            row["step"],
            f"{row['photos']:,}",
            f"{row['seconds'] / 60:.1f}",
            f"{row['cpu_seconds'] / 60:.1f}",
            f"{row['photos'] / row['seconds']:,.0f}",
            f"{row['peak_mb']:,}",
        ]
        for row in rows
    ]
    header = ("step", "photos", "minutes", "of all cores", "photos/s", "peak memory, MB")
    return markdown_table(header, lines)


def _memory(pid: int) -> float:
    """Proportional set size of a process and all its descendants, in bytes."""
    total = 0.0
    try:
        folder = pathlib.Path(f"/proc/{pid}")
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in (folder / "task").iterdir():
            for child in (task / "children").read_text().split():
                total += _memory(int(child))
    except OSError:  # ended meanwhile
        pass
    return total


if __name__ == "__main__":
    main()
