"""Searches a shop's catalog by photo.

    python -m grnet_jax.search index my_shop --from=photos.csv
    python -m grnet_jax.search index my_shop --from=photos/ --model=runs/grnet
    python -m grnet_jax.search query my_shop street.jpg --box=210,95,640,1180 --html=found.html
    python -m grnet_jax.search query my_shop street.jpg --filter=category=dress --filter="price<=50"
    python -m grnet_jax.search calibrate my_shop --from=labeled.csv
    python -m grnet_jax.search info my_shop
    python -m grnet_jax.search serve my_shop

`index` embeds what is new or changed and leaves the rest; the folder my_shop is made if there is
none. --from is a CSV (columns image and, where they are known, item_id and others to filter by), a
folder of photos, a sub-folder an item, or the folder of a prepared data set.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from grnet_jax.catalog.calibrating import calibrate_catalog, describe
from grnet_jax.catalog.filters import Filters
from grnet_jax.catalog.generations import (
    FIELD,
    StoreError,
    check_photos,
    live_manifest,
    read_listing,
    read_manifest,
)
from grnet_jax.catalog.indexing import SHORTLIST, IndexOptions, index_catalog
from grnet_jax.catalog.searching import Catalog, Match, open_catalog
from grnet_jax.detect.loading import load_detector
from grnet_jax.errors import ArgumentParser, InputError, check_at_least, parse_box
from grnet_jax.inference import load
from grnet_jax.runtime import session
from grnet_jax.search.features import machine_memory
from grnet_jax.visualization.match_page import match_page
from input_pipeline import SPLITS, Box, load_crop, pixel_box, read_lines, to_path, write_file

_DEFAULT_MODEL = "imagenet:efficientnet_lite0"
_FILTER = re.compile(r"\s*([^=<>]+?)\s*(<=|>=|=)\s*(.*?)\s*", re.DOTALL)
_SHOWN_FIELDS = 60  # letters
_OFFERED, _MOST_OFFERED = 0.5, 8  # garments of this score, so many at most


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    with session():
        folder = to_path(options.catalog, "CATALOG")
        commands = {
            "index": _index, "calibrate": _calibrate, "query": _query, "info": _info,
            "serve": _serve,
        }  # fmt: skip
        commands[options.command](folder, options)
    return 0


def _index(folder: epath.Path, options: argparse.Namespace) -> None:
    before = read_manifest(folder)
    source = options.source or (before.source if before else "")
    if not source:
        raise InputError(f"{folder}: no catalog yet: say what to index with --from=PHOTOS")
    splits = tuple(name for name in options.split.split("+") if name)
    if not options.source and before and not splits:
        splits = tuple(before.splits)
    if unknown := [name for name in splits if name not in SPLITS]:
        raise InputError(f"--split={options.split}: {unknown[0]!r} is none of {', '.join(SPLITS)}")
    check_at_least("--memory_gb", options.memory_gb, 0)
    if not 0 <= options.max_bad <= 1:
        raise InputError(f"--max_bad={options.max_bad}: expected a share, 0 to 1")
    run = options.model or (before.model.run if before else _DEFAULT_MODEL)
    # So that the catalog is found to be of it from anywhere.
    run, source = (_absolute(name) for name in (run, source))
    begun = time.monotonic()
    indexed = index_catalog(
        folder,
        load(run),
        IndexOptions(
            source,
            splits,
            run,
            options.max_bad,
            options.reread,
            options.rebuild,
            options.memory_gb,
            options.ray,
        ),
    )
    seconds = time.monotonic() - begun
    counts = indexed.counts
    said = ", ".join(f"{counts[name]:,} {name}" for name in ("added", "changed", "removed", "same"))
    print(f"{indexed.rows:,} photos of {indexed.items:,} items: {said}")
    if counts["customers"]:
        print(f"{counts['customers']:,} customer photos left out")
    if counts["unreadable"]:
        path = folder / "problems.csv"
        print(f"{counts['unreadable']:,} photos that cannot be used left out, the first:")
        for problem in path.read_text().splitlines()[1:6]:
            print(f"  {problem}")
        print(f"All of them: {path}")
    print(f"Wrote {folder}/ (generation {indexed.generation}, {seconds:.1f} s)")
    print(f"Next: python -m grnet_jax.search query {options.catalog} PHOTO")


def _calibrate(folder: epath.Path, options: argparse.Namespace) -> None:
    check_at_least("--shortlist", options.shortlist, 1)
    catalog = open_catalog(folder)
    source = _absolute(options.source) if options.source else catalog.manifest.source
    splits = [name for name in options.split.split("+") if name]
    if not options.source and catalog.manifest.splits and not splits:
        splits = ["val"]
    print(describe(calibrate_catalog(folder, catalog, source, splits, options.shortlist)))
    print(f"Wrote {folder / 'calibration.json'}")


def _query(folder: epath.Path, options: argparse.Namespace) -> None:
    check_at_least("--top", options.top, 1)
    check_at_least("--shortlist", options.shortlist, 1)
    filters = parse_filters(options.filter)
    boxes: list[Box | None] | None = None
    if options.box is not None:
        if len(options.photos) > 1:
            raise InputError(f"--box: is of one photo, but {len(options.photos)} were given")
        boxes = [options.box]
    catalog = open_catalog(folder)
    if boxes is not None:
        catalog.matcher.check_takes_boxes("--box: was given")
    photos = [os.fspath(to_path(name, "PHOTO")) for name in options.photos]
    results = catalog.search(photos, boxes, filters, options.top, shortlist=options.shortlist)
    found = list(zip(photos, results, strict=True))
    if options.json:
        content = [
            {"photo": name, "matches": [dataclasses.asdict(match) for match in matches]}
            for name, matches in found
        ]
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(_format(name, matches) for name, matches in found))
    passing = catalog.count(filters)
    said = [f"{passing:,} of {len(catalog):,} photos pass the filters"] if filters else []
    if filters and not passing and not options.json:
        print("\n".join([*said, *_known_values(catalog, filters)]))
    if options.html:
        path = to_path(options.html, "--html")
        write_file(path, _page(folder, catalog, found, options.box, said))
        if not options.json:
            print(f"Wrote {path}")


def _format(name: str, matches: Sequence[Match]) -> str:
    """Returns a table of a photo's matches."""
    if not matches:
        return f"{name}: nothing found"
    rows = [("", "score", "item", "photo", "")]
    for place, match in enumerate(matches, start=1):
        more = [] if match.probability is None else [f"{match.probability:.0%} the same item"]
        more += [f"+{len(match.images)} photos"] * bool(match.images)
        more += [f"+{len(match.copies)} copies"] * bool(match.copies)
        known = " ".join(f"{name}={text}" for name, text in match.fields.items())
        known = textwrap.shorten(known, _SHOWN_FIELDS, placeholder="...")
        cells = (str(place), f"{match.score:.3f}", match.item, match.image)
        rows.append((*cells, "; ".join([*[known] * bool(known), *more])))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)]
        lines.append("  ".join([row[0].rjust(widths[0]), *padded[1:]]).rstrip())
    return "\n".join([name, *lines])


def _known_values(catalog: Catalog, filters: Filters) -> list[str]:
    """Returns a line a filter with the values that its field has."""
    lines = []
    for name in filters:
        counts = catalog.generation.fields[name].value_counts()
        some = ", ".join(f"{value or '(empty)'} {count:,}" for value, count in counts[:12].items())
        lines.append(f"  {name}: {some}{', ...' if len(counts) > 12 else ''}")
    return lines


def _page(
    folder: epath.Path,
    catalog: Catalog,
    found: Sequence[tuple[str, Sequence[Match]]],
    box: Box | None,
    said: list[str],
) -> str:
    """Returns the page of what was found."""
    model, rows = catalog.manifest.model, len(catalog)
    items = catalog.manifest.items
    words = [f"{rows:,} photos of {items:,} items.", f"By {model.name}, step {model.step}."]
    sections = []
    for name, matches in found:
        crop = load_crop(name, box, catalog.matcher.transform())
        height, width = crop.height, crop.width
        seen = pixel_box(catalog.matcher.transform().box(box, height, width), height, width)
        share = [seen[0] / width, seen[1] / height, seen[2] / width, seen[3] / height]
        shown = [
            dataclasses.asdict(match) | {"thumbnail": catalog.thumbnail(match.row)}
            for match in matches
        ]
        name = epath.Path(name).name
        sections.append({"name": name, "picture": crop.picture, "seen": share, "matches": shown})
    return match_page(folder.name, " ".join([*words, *(f"{line}." for line in said)]), sections)


def _info(folder: epath.Path, options: argparse.Namespace) -> None:
    manifest = live_manifest(folder)
    listing = read_listing(folder, manifest)
    model, counts, source = manifest.model, manifest.counts, manifest.source
    files = [
        path for place, _, names in os.walk(folder) for path in map(f"{place}/".__add__, names)
    ]
    size = sum(map(os.path.getsize, files))
    names = [name.removeprefix(FIELD) for name in listing if name.startswith(FIELD)]
    problem = check_photos(folder, manifest, listing)
    info = {
        "photos": f"{len(listing):,} ({listing['number'].nunique():,} different)",
        "items": f"{manifest.items:,}",
        "fields": ", ".join(names) or "none",
        "model": f"{model.run}, step {model.step} ({model.name})",
        "source": " ".join([source, *manifest.splits]),
        "generation": f"{manifest.generation}, of {manifest.indexed_at}",
        "last index": ", ".join(f"{count:,} {name}" for name, count in counts.items()),
        "on disk": f"{size / 1e6:.1f} MB",
        "search": f"an index, {manifest.probes} probes, recall {manifest.recall:.3f}"
        if manifest.probes
        else "exact, in memory",
        "health": problem or "good: what was read of it is as it was written",
    }
    if options.json:
        print(
            json.dumps(
                {"folder": str(folder), **manifest.model_dump(), "bytes": size, "health": problem}
            )
        )
    else:
        print("\n".join(f"{name:<12}{value}" for name, value in info.items()))
    if problem:
        raise StoreError(problem)


def _serve(folder: epath.Path, options: argparse.Namespace) -> None:
    try:
        from grnet_jax.serving.server import ServeOptions, serve
    except ModuleNotFoundError as error:
        raise InputError(
            f"serve: {error.name} is not installed: pip install 'grnet_jax[search]'"
        ) from error
    live_manifest(folder)
    check_at_least("--shortlist", options.shortlist, 1)
    check_at_least("--rate", options.rate, 0)
    token = os.environ.get("GRNET_SEARCH_TOKEN", "")
    if options.token_file:
        token = "\n".join(read_lines(to_path(options.token_file, "--token_file"))).strip()
    serve(
        folder,
        ServeOptions(
            options.host, options.port, options.shortlist, token, tuple(options.allowed_host),
            options.public, options.rate,
        ),
        _garments(options.detector) if options.detector else None,
    )  # fmt: skip


def _garments(workdir: str) -> Callable[[np.ndarray], list[tuple[Box, str, float]]]:
    """Returns what finds (box, category, score) of garments in a photo, compiled."""
    detector = load_detector(workdir)

    def find(picture: np.ndarray) -> list[tuple[Box, str, float]]:
        (found,) = detector.detect([picture])
        each = zip(found.box.tolist(), found.category.tolist(), found.score.tolist(), strict=True)
        return [(box, name, score) for box, name, score in each if score >= _OFFERED][
            :_MOST_OFFERED
        ]

    find(np.zeros((64, 64, 3), np.uint8))
    return find


def parse_filters(texts: Sequence[str]) -> dict[str, Any]:
    """Parses NAME=VALUE, NAME<=NUMBER and NAME>=NUMBER; values of one field are alternatives.

    Raises:
      InputError: it is none of these.
    """
    filters: dict[str, Any] = {}
    for text in texts:
        if not (parts := _FILTER.fullmatch(text)):
            raise InputError(f"--filter={text}: expected NAME=VALUE, NAME<=NUMBER or NAME>=NUMBER")
        name, sign, value = parts.groups()
        wanted = filters.setdefault(name, [] if sign == "=" else {})
        if isinstance(wanted, list) != (sign == "="):
            raise InputError(f"--filter={text}: {name!r} has values and a range; give one of them")
        if isinstance(wanted, list):
            wanted.append(value)
            continue
        try:
            wanted["max" if sign == "<=" else "min"] = float(value)
        except ValueError:
            raise InputError(f"--filter={text}: expected a number, got {value!r}") from None
    return filters


def _absolute(name: str) -> str:
    """Returns a path that holds from anywhere; names of models and of buckets stay."""
    return name if ":" in name else os.path.abspath(os.path.expanduser(name))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {
        name: commands.add_parser(name, help=text)
        for name, text in (
            ("index", "embed what is new or changed"),
            ("calibrate", "measure how sure results are, on photos whose item is known"),
            ("query", "find what photos show"),
            ("info", "what is in a catalog, and whether it is whole"),
            ("serve", "answer searches over HTTP, with a page"),
        )
    }
    for part in parsers.values():
        part.add_argument("catalog", metavar="CATALOG", help="folder of the catalog")
    add = parsers["index"].add_argument
    add("--from", dest="source", default="", help="CSV, folder or prepared data set (as before)")
    add("--split", default="", help="of a prepared data set: test, or train+val (all)")
    add("--model", default="", help=f"a run's folder, or imagenet:NAME ({_DEFAULT_MODEL})")
    add("--max_bad", type=float, default=0.05, help="share of photos that may be unusable (0.05)")
    add("--reread", action="store_true", help="read files again that have the same size and time")
    third = machine_memory() / 3e9
    add("--memory_gb", type=float, default=third, help="for embeddings; more are searched on disk")
    add("--ray", default="", help="Ray cluster that embeds: its address, auto, or local (none)")
    add("--rebuild", action="store_true", help="embed all anew, as for another model")
    add = parsers["calibrate"].add_argument
    add("--from", dest="source", default="", help="customers' photos with item_id (the catalog's)")
    add("--split", default="", help="of a prepared data set (val)")
    add("--shortlist", type=int, default=SHORTLIST, help=f"photos scored pairwise ({SHORTLIST})")
    add = parsers["query"].add_argument
    add("photos", nargs="+", metavar="PHOTO", help="photo files")
    add("--box", type=parse_box, metavar="X_1,Y_1,X_2,Y_2", help="the garment in a single photo")
    add("--filter", action="append", default=[], help="NAME=VALUE, NAME<=NUMBER, NAME>=NUMBER")
    add("--top", type=int, default=10, help="items to find (10)")
    add("--shortlist", type=int, default=SHORTLIST, help=f"photos scored pairwise ({SHORTLIST})")
    add("--html", default="", help="write a page with the pictures")
    add = parsers["serve"].add_argument
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    add("--port", type=int, default=8000, help="likewise (8000)")
    add("--shortlist", type=int, default=SHORTLIST, help=f"photos scored pairwise ({SHORTLIST})")
    add("--detector", default="", help="a detector's run, whose boxes the page offers")
    add("--token_file", default="", help="its text is needed to ask (or $GRNET_SEARCH_TOKEN)")
    add("--public", action="store_true", help="others than this machine may ask without a token")
    add("--allowed_host", action="append", default=[], help="a name of this server, as a proxy has")
    add("--rate", type=float, default=600, help="requests a minute of a client, 0 for any (600)")
    for name in ("query", "info"):
        parsers[name].add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
