"""The training input pipeline beside TensorFlow's bare operations on the same photos in memory.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --manifest=photos/manifest.csv --photos="what they are"

The first measures the synthetic set at 64 pixels, the second a manifest's training photos at
224 pixels.

pipeline: `train_batches` as training reads it: the order, records from disk, decoding, crop,
  antialiased resizing, rounding, flips, batches of 64 photos as uint8 NumPy arrays.
bare: tf.data over the encoded photos of the pipeline's first batches and the same crops, all held
  in memory: tf.image.decode_and_crop_jpeg and tf.image.resize, with the pipeline's arithmetic
  (accurate inverse DCT, antialiased), AUTOTUNE, batches of 64 as float32 NumPy arrays. No order,
  no records, no margin around a crop, no rounding, no flips.
bare, uint8: as bare, each photo then cast to uint8, which makes batches a quarter as large.
default: as bare, with the defaults of both functions: other pixels, without antialiasing.
The ratio of a round is that to the faster of the two bare ways in this round.

All run in one process by turns, round after round; other work on the machine hits them alike. A
turn passes over the batches made before it began. Rates are by the wall clock, milliseconds are
the process' CPU time a photo on all cores. Resident memory is sampled at every batch over an epoch
of the pipeline or more, after its warm-up, before anything else has run.
Writes benchmarks/results/input_pipeline_cpu.json.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks.results_file import ROOT, ResultsFile
from configs import grnet
from grnet_jax.config import Config, parse_config
from input_pipeline import CropBoxes, ImageConfig, Split, load_dataset, train_batches
from input_pipeline.records import PhotoRecord, parse
from input_pipeline.sampling import build_sampler

_WAYS = ("pipeline", "bare", "bare_uint8", "default")
_BARE = ("bare", "bare_uint8")
_PHOTOS = 64  # a batch
_BARE_BATCHES = 16  # held in memory
_MADE_BEFORE = 4  # batches that a paused pipeline may hold
_WARM_UP = 200  # batches
_LEAST_BATCHES = 1000  # over which memory is sampled
_PEAK_FLOPS = 989e12  # of an H200, dense bfloat16, as its data sheet says
_SHARES = (0.1, 0.2, 0.4)


class _Turn(NamedTuple):
    rate: float  # photos/s
    cpu_ms: float  # a photo


def main() -> None:
    """Measures one set of photos, writes its row and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", default="", help="CSV with pairs to train on")
    parser.add_argument("--photos", default="", help="what the photos are, for the table")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--rounds", type=int, default=9, help="(9)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (3)")
    options = parser.parse_args()
    command = "python -m benchmarks.input_pipeline [--manifest=photos/manifest.csv]"
    results = ResultsFile("input_pipeline_cpu", command, ("photos",))
    config = _config(options.manifest, options.data_dir)
    split = load_dataset(config.dataset).split("train")
    photos = options.photos or ("manifest" if options.manifest else "synthetic set")
    row = {"photos": photos, **_measure(split, config, options.rounds, options.seconds)}
    results.add(row)
    print(format_rows(results.rows))
    print(f"Wrote {results.path.relative_to(ROOT)}")


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Three Markdown tables: rates, memory, and what an H200 would need by arithmetic."""
    rates = [
        "| photos | size | pipeline, photos/s (CPU ms) | bare | bare, uint8 | default | "
        "pipeline / bare (range) | by CPU time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    memory = [
        "| photos | batches | epochs | first tenth, MB | last tenth, MB | MB / 1000 batches |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ways = [f"{row[f'{w}_rate']:,.0f} ({row[f'{w}_cpu_ms']:.2f})" for w in _WAYS]
        low, high = min(row["ratios"]), max(row["ratios"])
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        cells = [row["photos"], str(row["image_size"]), *ways, ratio, f"{row['cpu_ratio']:.2f}"]
        rates.append("| " + " | ".join(cells) + " |")
        sampled = row["memory"]
        cells = [row["photos"], f"{sampled['batches']}", f"{sampled['epochs']:.1f}"]
        cells += [f"{sampled['first_tenth_mb']:.0f}", f"{sampled['last_tenth_mb']:.0f}"]
        memory.append("| " + " | ".join([*cells, f"{sampled['mb_a_1000_batches']:+.1f}"]) + " |")
    tables = [rates, memory]
    if full := [row for row in rows if row["image_size"] == 224]:
        tables.append(_needed(full))
    return "\n\n".join("\n".join(table) for table in tables) + "\n"


def _needed(rows: list[dict[str, Any]]) -> list[str]:
    """Arithmetic, no measurement: what keeps an H200 busy with the paper's GRNet."""
    heading = " | ".join(f"cores, {row['photos']}" for row in rows)
    lines = [f"| share of peak | photos/s | {heading} |", "|---|---|" + "---|" * len(rows)]
    step = 2 * _step_macs(_PHOTOS)  # floating point operations
    for share in _SHARES:
        rate = _PHOTOS * share * _PEAK_FLOPS / step
        cores = [f"{rate * row['pipeline_cpu_ms'] / 1000:.0f}" for row in rows]
        lines.append("| " + " | ".join([f"{share:.0%}", f"{rate:,.0f}", *cores]) + " |")
    return lines


def _step_macs(photos: int) -> float:
    """Multiply-adds of a training step of the paper's GRNet on photos / 2 items.

    Those of a photo and of a pair, forward and backward, as the equations are written, are what
    benchmarks/training_speed.py counted.
    """
    content = (ROOT / "benchmarks/results/training_speed_cpu.json").read_text()
    parts = {row["part"]: row for row in json.loads(content)["rows"] if row["size"] == "paper"}
    pair = sum(parts[part]["gmac"] / parts[part]["items"] ** 2 for part in ("nodes", "reasoning"))
    photo = parts["backbone"]["gmac"] / parts["backbone"]["photos"]
    return 1e9 * (photos * photo + (photos // 2) ** 2 * pair)


def _config(manifest: str, folder: str) -> Config:
    config = grnet.get_config("manifest" if manifest else "synthetic")
    config.dataset.source, config.dataset.dir = manifest, folder
    config.augment.update(crop_jitter=0.0, color_jitter=0.0)
    return parse_config(config)


def _measure(split: Split, config: Config, rounds: int, seconds: float) -> dict[str, Any]:
    def pipeline() -> Iterator[Any]:
        sections = config.image, config.augment, config.sampler
        items = _PHOTOS // 2
        return train_batches(split, *sections, batch_size=items, start_step=0, steps=10**9, seed=0)

    epoch = build_sampler(split, config.sampler, 0).epoch_length / (_PHOTOS // 2)
    memory = _memory(pipeline(), epoch)
    images, crops = _read_images(split, config)
    ways = {
        "pipeline": pipeline(),
        "bare": _bare(images, crops, config.image),
        "bare_uint8": _bare(images, crops, config.image, dtype=tf.uint8),
        "default": _bare(images, crops, config.image, dct="", antialias=False),
    }
    for batches in ways.values():
        _turn(batches, seconds)  # AUTOTUNE finds its settings
    turns = [{name: _turn(ways[name], seconds) for name in ways} for _ in range(rounds)]
    row: dict[str, Any] = {
        "image_size": config.image.size,
        "interpolation": config.image.interpolation,
        "mean_crop": np.mean(crops[:, 2:] - crops[:, :2], axis=0).round().tolist(),
        "mean_bytes": round(float(np.mean([len(image) for image in images]))),
        "memory": memory,
        "ratios": [
            round(turn["pipeline"].rate / max(turn[bare].rate for bare in _BARE), 3)
            for turn in turns
        ],
        "cpu_ratios": [
            round(min(turn[bare].cpu_ms for bare in _BARE) / turn["pipeline"].cpu_ms, 3)
            for turn in turns
        ],
    }
    for name in ways:
        row[f"{name}_rates"] = [round(turn[name].rate, 1) for turn in turns]
        row[f"{name}_rate"] = round(float(np.median(row[f"{name}_rates"])), 1)
        row[f"{name}_cpu_ms"] = round(float(np.median([turn[name].cpu_ms for turn in turns])), 3)
    row["ratio"] = round(float(np.median(row["ratios"])), 3)
    row["cpu_ratio"] = round(float(np.median(row["cpu_ratios"])), 3)
    return row | {"rounds": rounds, "load_average": round(os.getloadavg()[0], 1)}


def _turn(batches: Iterator[Any], seconds: float) -> _Turn:
    for _ in range(_MADE_BEFORE):
        next(batches)
    started, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < started + seconds:
        next(batches)
        count += 1
    photos = count * _PHOTOS
    return _Turn(
        photos / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / photos
    )


def _read_images(split: Split, config: Config) -> tuple[list[bytes], np.ndarray]:
    """The upright JPEGs of the pipeline's first batches, and the crop of each."""
    sampler = build_sampler(split, config.sampler, 0)
    batches = [sampler.sample(s, batch_size=_PHOTOS // 2) for s in range(_BARE_BATCHES)]
    rows = np.concatenate([batch.flat().rows for batch in batches])
    records = [parse(PhotoRecord, record) for record in split.read(rows)]
    upright = [r.image.startswith(b"\xff\xd8") and r.orientation == 1 for r in records]
    if not any(upright):
        raise SystemExit("No photo is an upright JPEG: there is nothing to compare with")
    images = [record.image for record, keep in zip(records, upright, strict=True) if keep]
    return images, CropBoxes(split, config.image).pixels(rows[upright])


def _bare(
    images: list[bytes],
    crops: np.ndarray,
    image: ImageConfig,
    *,
    dct: str = "INTEGER_ACCURATE",
    antialias: bool = True,
    dtype: tf.DType = tf.float32,
) -> Iterator[np.ndarray]:
    left, top, right, bottom = crops.T
    size, method = [image.size] * 2, image.interpolation
    windows = np.stack([top, left, bottom - top, right - left], axis=1).astype(np.int32)

    def photo(encoded: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        crop = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=dct)
        return tf.cast(tf.image.resize(crop, size, method, antialias=antialias), dtype)

    return (
        tf.data.Dataset.from_tensor_slices((images, windows))
        .repeat()
        .map(photo, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(_PHOTOS)
        .prefetch(2)
        .as_numpy_iterator()
    )


def _memory(batches: Iterator[Any], epoch: float) -> Mapping[str, float]:
    """Resident memory over whole epochs; the slope is that of the least squares."""
    for _ in range(_WARM_UP):
        next(batches)
    count = int(np.ceil(epoch * np.ceil(_LEAST_BATCHES / epoch)))
    samples = np.empty(count)
    for number in range(count):
        next(batches)
        samples[number] = _resident_mb()
    tenth = count // 10
    return {
        "batches": count,
        "epochs": round(count / epoch, 2),
        "first_tenth_mb": round(float(samples[:tenth].mean()), 1),
        "last_tenth_mb": round(float(samples[-tenth:].mean()), 1),
        "least_mb": round(float(samples.min()), 1),
        "most_mb": round(float(samples.max()), 1),
        "mb_a_1000_batches": round(1000 * float(np.polyfit(np.arange(count), samples, 1)[0]), 2),
    }


def _resident_mb() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
