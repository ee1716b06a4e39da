"""Finds garments in photos: boxes, classes and masks.

    python -m grnet_jax.detect photos/ --workdir=runs/detector_modanet
    python -m grnet_jax.detect photos/ --workdir=runs/coco --classes=person
    python -m grnet_jax.detect photos/ --workdir=runs/detector_modanet --class_map=street2shop
    python -m grnet_jax.detect --dataset=synthetic --workdir=runs/detector_synthetic_objects \\
        --class_map=synthetic --no_pictures

Writes boxes.csv, which retrieval crops by (`--config.image.detections=boxes.csv`), detections.json
with COCO's results, and each photo with what was found. Of a folder all files are taken, named by
their path below it; @list.txt stands for the names in that file. --dataset takes the photos of all
splits of a data set of pairs. Files that are no photos are named, passed over and counted.

Without --class_map a photo is cropped to its best box. With it, boxes.csv has for each category of
a shop the boxes of the classes that show it, and a photo is cropped to the best of its category's:
"street2shop" and "synthetic" have ModaNet's classes for those data sets, FILE.json is
{category: [class, ...], ...}.
"""

import argparse
import csv
import functools
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from grnet_jax.detect.loading import LoadedDetector, load_detector
from grnet_jax.detection.photos import NOT_A_CLASS, PhotoDetections, coco_results
from grnet_jax.errors import ArgumentParser, InputError
from grnet_jax.evaluation.progress import progress_bar
from grnet_jax.predict.photo_files import find_files, picture_name
from grnet_jax.runtime import session
from grnet_jax.visualization.detections import draw_detections
from input_pipeline import (
    BOX,
    STREET2SHOP_CLASSES,
    SYNTHETIC_CLASSES,
    DatasetConfig,
    ImageError,
    ObjectSplit,
    check_folder,
    load_dataset,
    load_image,
    read_object,
    to_path,
    write_file,
)

_OBJECTNESS = 0.5  # of boxes that are cropped to, as Kucer and Murray have it
_CLASS_MAPS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "street2shop": STREET2SHOP_CLASSES,
    "synthetic": SYNTHETIC_CLASSES,
}
_COLUMNS = ("image", *BOX, "score", "category", "class")


class _Photo(NamedTuple):
    """A photo that is not read yet, and its side by that of the original."""

    read: Callable[[], np.ndarray]
    scale: float = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    with session():
        photos = _choose_photos(options)
        detector = load_detector(to_path(options.workdir, "--workdir"))
        class_map = _read_class_map(options.class_map, detector.categories)
        chosen = _choose_classes(options.classes, detector.categories)
        output = to_path(options.output or f"{options.workdir}/detections", "--output")
        check_folder(output)
        rows: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        skipped: list[str] = []
        numbers = {name: number for number, name in enumerate(detector.categories, start=1)}
        numbers.pop(NOT_A_CLASS, None)
        count = 0
        for name, pixels, found in _detect(detector, photos, skipped):
            found = found.take(np.isin(found.category, chosen))
            count += 1
            original = found.resized(1 / photos[name].scale)
            rows += crop_rows(name, original, class_map)
            results += coco_results(original, name, numbers)
            if not options.no_pictures and jax.process_index() == 0:
                shown = found.take(found.score >= options.min_score)
                _write_picture(output, count, name, pixels, shown)
        if not count:
            raise InputError("none of the files is a photo that can be read; the reasons are above")
        if jax.process_index() == 0:
            _write_csv(output / "boxes.csv", rows)
            content = {"categories": numbers, "annotations": results, "skipped": skipped}
            write_file(output / "detections.json", json.dumps(content) + "\n")
            print(f"{count:,} photos, {len(results):,} objects, {len(skipped):,} files skipped")
            pictures = "" if options.no_pictures else f", {count:,} pictures"
            print(f"Wrote {output}/: boxes.csv, detections.json{pictures}")
    return 0


def crop_rows(
    image: str, found: PhotoDetections, class_map: Mapping[str, Sequence[str]] | None
) -> Iterator[dict[str, Any]]:
    """Yields the lines of boxes.csv for a photo.

    They are of the boxes that are objects more likely than not, one for each category that the
    class shows; without a map one, without category.
    """
    for place, name in enumerate(found.category.tolist()):
        box = [round(edge, 2) for edge in found.box[place].tolist()]
        if found.objectness[place] <= _OBJECTNESS or not (box[0] < box[2] and box[1] < box[3]):
            continue
        categories = [""]
        if class_map is not None:
            categories = [shown for shown, classes in class_map.items() if name in classes]
        for category in categories:
            values = (image, *box, round(float(found.score[place]), 4), category, name)
            yield dict(zip(_COLUMNS, values, strict=True))


def _detect(
    detector: LoadedDetector, photos: Mapping[str, _Photo], skipped: list[str]
) -> Iterator[tuple[str, np.ndarray, PhotoDetections]]:
    """Yields each photo's name, pixels and detections; names those that cannot be read."""
    batch: dict[str, np.ndarray] = {}
    with progress_bar(len(photos), "detect", "photo") as bar:
        for number, (name, photo) in enumerate(photos.items(), start=1):
            try:
                batch[name] = photo.read()
            except ImageError as error:
                print(f"skipped: {error}", file=sys.stderr)
                skipped.append(name)
            if len(batch) == detector.config.eval.batch_size or (number == len(photos) and batch):
                found = detector.detect(list(batch.values()))
                yield from zip(batch, batch.values(), found, strict=True)
                batch = {}
            bar.update()


def _choose_photos(options: argparse.Namespace) -> dict[str, _Photo]:
    """Returns the photos to detect in by name: files, or those of a data set."""
    if bool(options.photos) == bool(options.dataset):
        raise InputError("PHOTO: expected photo files, folders or @FILE; or else --dataset")
    if not options.dataset:
        files = _name_files(options.photos)
        return {name: _Photo(functools.partial(load_image, path)) for name, path in files.items()}
    given = {name: getattr(options, name) for name in ("source", "dir")}
    dataset = load_dataset(DatasetConfig(name=options.dataset, **given))
    photos: dict[str, _Photo] = {}
    for split in map(dataset.split, dataset.splits):
        if isinstance(split, ObjectSplit):
            raise InputError(f"--dataset={options.dataset}: has objects; eval.py detects in it")
        names, scales = split.index.photo_id.tolist(), split.index.resize_scale.tolist()
        for row, (name, scale) in enumerate(zip(names, scales, strict=True)):
            photos[name] = _Photo(functools.partial(split.picture, row), scale)
    return photos


def _name_files(names: Sequence[str]) -> dict[str, epath.Path]:
    """Returns the photo files; those of a folder are named by their path below it."""
    files: dict[str, epath.Path] = {}
    for name in names:
        folder = None if name.startswith("@") else to_path(name, "photo")
        inside = folder is not None and folder.is_dir()
        for path in find_files([name]):
            key = str(path.relative_to(folder)) if inside else str(path)
            if files.setdefault(key, path) != path:
                raise InputError(
                    f"{path}: boxes are named by the path below the folder, and {files[key]} has "
                    f"the same, {key}: detect in one folder at a time"
                )
    return files


def _choose_classes(given: str, known: Sequence[str]) -> list[str]:
    chosen = given.split(",") if given else list(known)
    if unknown := sorted(set(chosen) - set(known)):
        names = ", ".join(name for name in dict.fromkeys(known) if name != NOT_A_CLASS)
        raise InputError(f"--classes: {', '.join(unknown)} not known; the detector has {names}")
    return chosen


def _read_class_map(given: str, known: Sequence[str]) -> Mapping[str, Sequence[str]] | None:
    """Returns by a shop's category the classes that show it; None for no map."""
    if not given:
        return None
    found: Mapping[str, Any] = _CLASS_MAPS.get(given, {})
    if not found:
        found = read_object(to_path(given, "--class_map"), "a map of classes")
        for category, names in found.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise InputError(f"{given}: {category!r}: expected a list of names of classes")
    if not set(known) & {name for classes in found.values() for name in classes}:
        raise InputError(f"--class_map={given}: names none of the detector's classes")
    return found


def _write_csv(path: epath.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    content = io.StringIO()
    writer = csv.DictWriter(content, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, content.getvalue())


def _write_picture(
    output: epath.Path, number: int, name: str, pixels: np.ndarray, found: PhotoDetections
) -> None:
    content = io.BytesIO()
    draw_detections(pixels, found).save(content, format="JPEG", quality=90)
    write_file(output / f"{picture_name(number, name)}.jpg", content.getvalue())


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.detect", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photo files, folders, or @FILE with names")
    add("--dataset", default="", help="in the photos' place, a data set of pairs")
    add("--source", default="", help="of the data set, as prepare takes it")
    add("--dir", default=DatasetConfig().dir, help="of prepared data sets (%(default)s)")
    add("--workdir", required=True, help="folder or bucket of the trained or converted run")
    add("--output", default="", help="where to write (WORKDIR/detections)")
    add("--classes", default="", help="those that count, joined by commas (all)")
    add("--class_map", default="", help="street2shop, synthetic or FILE.json (none)")
    add("--min_score", type=float, default=0.5, help="of what is drawn (0.5)")
    add("--no_pictures", action="store_true", help="write the two files alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
