"""What a full consumer-to-shop test costs: arithmetic from the measured rates.

    python -m benchmarks.full_test [--queries=22000] [--gallery=45392] [--price=0]

GRNet at the paper's sizes on 1, 8 and 256 devices, exhaustive and as a cascade. Rows of the CPU
take the rates of scoring_cpu.json and backbone_speed_cpu.json; rows of accelerators, of which none
was at hand, take the multiply-adds that scoring executes and a share of the device's published
peak: they are marked as arithmetic. Nothing is run here.
Writes benchmarks/results/full_test.json, unless other sizes are given.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.results_file import RESULTS, ROOT, ResultsFile, make_parser, markdown_table

DEVICES = (1, 8, 256)
# A test of the paper's size: the queries are a round number, the gallery is the paper's.
_QUERIES, _GALLERY = 22_000, 45_392
# So much of the peak is assumed of accelerators: the target of benchmarks/scoring on a GPU.
_SHARE = 0.5
_EMBEDDING = 1024
# Region features of a photo in float16, and what one process reads in a second, bytes.
_PHOTO_BYTES = 24 * 1024 * 2
_READ_RATE = 1e9
# Queries that a device ranks while the gallery passes by: a chunk of grnet_jax/search/ranking.py.
_CHUNK_QUERIES = 512
SHORTLISTS = (0, 4539, 400)


class Device(NamedTuple):
    """A device and what is known of its speed.

    Attributes:
      name: as the table shows it.
      pairs_per_s: that GRNet's graph scores.
      photos_per_s: that GoogLeNet embeds.
      macs_per_s: multiply-adds of plain products, for the shortlist's inner products.
      known: where that is from.
    """

    name: str
    pairs_per_s: float
    photos_per_s: float
    macs_per_s: float
    known: str


def main() -> None:
    """Computes all rows and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--queries", type=int, default=_QUERIES, help=f"consumer photos ({_QUERIES})"
    )
    parser.add_argument("--gallery", type=int, default=_GALLERY, help=f"shop photos ({_GALLERY})")
    parser.add_argument("--price", type=float, default=0.0, help="of a device's hour, to print it")
    options = parser.parse_args()
    size = {"queries": options.queries, "gallery": options.gallery}
    rows = [
        estimate(device, shortlist=shortlist, **size) | size
        for device in devices()
        for shortlist in SHORTLISTS
        if shortlist < options.gallery
    ]
    print(format_rows(rows))
    for row in rows if options.price else ():
        hours = row["seconds"]["1"] / 3600
        scored = row["shortlist"] or "all"
        print(f"{row['device']}, {scored} scored: {hours * options.price:,.2f} on one device")
    if size != {"queries": _QUERIES, "gallery": _GALLERY}:
        return  # the file has the paper's test
    results = ResultsFile("full_test", "python -m benchmarks.full_test", ("device", "shortlist"))
    for row in rows:
        results.add(row)
    print(f"Wrote {results.path.relative_to(ROOT)}")


def devices() -> list[Device]:
    """The measured CPU, and accelerators by their published peak in bfloat16."""
    scoring = _row("scoring_cpu", cores=2)
    network = _row("backbone_speed_cpu", what="googlenet", dtype="float32")
    pair, photo = scoring["multiply_adds_per_pair"], network["gmac_a_photo"] * 1e9
    cpu = Device(
        f"CPU ({scoring['machine']})",
        scoring["ours_pairs_per_s"],
        network["photos"] / network["forward_seconds"],
        scoring["matrix_gmac_per_s"] * 1e9,
        "measured",
    )
    every = [cpu]
    # Dense bfloat16 peaks of the makers' data sheets, in 1e12 floating-point operations a second.
    for name, peak in (("TPU v5e", 197), ("A100", 312), ("H100 SXM", 989)):
        macs = _SHARE * peak * 1e12 / 2
        known = f"arithmetic: {_SHARE:.0%} of {peak} TFLOP/s"
        every.append(Device(name, macs / pair, macs / photo, macs, known))
    return every


def estimate(device: Device, queries: int, gallery: int, shortlist: int) -> dict[str, Any]:
    """Seconds of embedding and ranking on each number of devices.

    Args:
      device: of which there are so many, each with a process that reads on its own.
      queries: consumer photos.
      gallery: shop photos.
      shortlist: photos that the graph scores for each query; 0 for all.
    """
    pairs = queries * (shortlist or gallery)
    work = (queries + gallery) / device.photos_per_s + pairs / device.pairs_per_s
    if shortlist:
        work += queries * gallery * _EMBEDDING / device.macs_per_s
    seconds = {}
    for count in DEVICES:
        passes = -(-queries // (_CHUNK_QUERIES * count))
        if shortlist:  # all embeddings for each pass, then each query's own photos
            size = passes * gallery * _EMBEDDING * 4 + queries * shortlist * _PHOTO_BYTES / count
        else:
            size = passes * gallery * _PHOTO_BYTES
        read = size / _READ_RATE
        # Reading goes on while the devices work.
        seconds[str(count)] = round(max(work / count, read), 1)
    return {
        "device": device.name,
        "known": device.known,
        "pairs_per_s": round(device.pairs_per_s),
        "shortlist": shortlist,
        "pairs": pairs,
        "seconds": seconds,
    }


def format_rows(rows: list[dict]) -> str:
    """A Markdown table of the times."""
    lines = []
    for row in rows:
        scored = f"{row['shortlist']:,}" if row["shortlist"] else f"all {row['gallery']:,}"
        cells = [row["device"], f"{row['pairs_per_s']:,}", row["known"], scored]
        cells += [_time(row["seconds"][str(count)]) for count in DEVICES]
        lines.append([*cells, f"{row['seconds']['1'] / 3600:,.2f}"])
    counts = (f"{count} device{'s' * (count > 1)}" for count in DEVICES)
    known = ("device", "pairs/s", "known by", "scored for a query")
    return markdown_table((*known, *counts, "device hours"), lines)


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _row(name: str, **keys: Any) -> Mapping[str, Any]:
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return next(row for row in rows if all(row[key] == value for key, value in keys.items()))


if __name__ == "__main__":
    main()
