"""Tells what photos show: the garment's category, attributes and landmarks.

    python -m grnet_jax.predict street.jpg --workdir=runs/fashionnet_synthetic
    python -m grnet_jax.predict photos/ other.jpg --workdir=runs/fashionnet_synthetic \\
        --output=predictions
    python -m grnet_jax.predict street.jpg --box=210,95,640,1180 --workdir=...

Prints what each photo shows; writes predictions.json and each photo with its landmarks drawn in. Of
a folder all files are taken; @list.txt stands for the names in that file, a line each. Files that
are no photos are named, passed over and counted.
"""

import argparse
import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from grnet_jax.errors import ArgumentParser, InputError, check_at_least, parse_box
from grnet_jax.inference import LoadedMatcher
from grnet_jax.predict.decoding import Prediction, decode, format_prediction
from grnet_jax.predict.photo_files import find_files, picture_name
from grnet_jax.runtime import session
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import restore_matcher
from grnet_jax.training.label_names import LabelNames, read_label_names
from grnet_jax.visualization.explanations import CroppedImage, crop_image
from grnet_jax.visualization.predictions import Mark, draw_predictions
from input_pipeline import (
    Box,
    ImageError,
    ImageTransform,
    check_box,
    check_folder,
    load_image,
    to_path,
    write_file,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    with session():
        check_at_least("--top", options.top, 1)
        paths = find_files(options.photos)
        if options.box is not None and len(paths) != 1:
            raise InputError(f"--box: is of one photo, but {len(paths)} were given")
        workdir = to_path(options.workdir, "--workdir")
        labels = read_label_names(workdir)
        matcher = LoadedMatcher(*restore_matcher(workdir, make_mesh()))
        if options.box is not None:
            matcher.check_takes_boxes("--box: was given", options.shop)
        output = to_path(options.output or workdir / "predictions", "--output")
        check_folder(output)
        predictions, skipped = _predict(matcher, labels, paths, options, output)
        path = output / "predictions.json"
        content = {
            "model": matcher.config.name,
            "step": matcher.step,
            "photos": predictions,
            "skipped": skipped,
        }
        if jax.process_index() == 0:
            write_file(path, json.dumps(content, indent=2) + "\n")
            print(f"\n{len(predictions):,} photos, {len(skipped):,} skipped")
            print(f"Wrote {path} and {len(predictions):,} pictures beside it")
        if not predictions:
            raise InputError("none of the files is a photo that can be read; the reasons are above")
    return 0


def _predict(
    matcher: LoadedMatcher,
    labels: LabelNames,
    paths: Sequence[epath.Path],
    options: argparse.Namespace,
    output: epath.Path,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Prints and draws what each photo shows; returns the predictions and the skipped files."""
    predictions: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    transform = matcher.transform(options.shop)
    for photos in _batches(matcher, transform, paths, options.box, skipped):
        boxes = None if options.box is None else [options.box] * len(photos)
        batch = matcher.predict([photo.pixels for photo in photos], boxes, shop=options.shop)
        for row, photo in enumerate(photos):
            prediction = decode(batch, row, labels, photo.crop, options.top)
            picture = f"{picture_name(len(predictions) + 1, photo.name)}.png"
            if jax.process_index() == 0:
                print(format_prediction(photo.name, prediction), flush=True)
                content = io.BytesIO()
                _draw(photo, prediction).save(content, format="PNG")
                write_file(output / picture, content.getvalue())
            fields = dataclasses.asdict(prediction)
            predictions.append({"photo": photo.name, "picture": picture, **fields})
    return predictions, skipped


def _batches(
    matcher: LoadedMatcher,
    transform: ImageTransform,
    paths: Sequence[epath.Path],
    box: Box | None,
    skipped: list[dict[str, str]],
) -> Iterator[list[CroppedImage]]:
    """Photos as many as are embedded at once; those that cannot be read are named and noted."""
    photos: list[CroppedImage] = []
    for path in paths:
        try:
            whole = load_image(path)
        except ImageError as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped.append({"photo": str(path), "reason": str(error)})
            continue
        if box is not None:
            check_box(box, whole, "--box")
        photos.append(crop_image(str(path), whole, box, transform))
        if len(photos) == matcher.config.eval.batch_size:
            yield photos
            photos = []
    if photos:
        yield photos


def _draw(photo: CroppedImage, prediction: Prediction) -> Any:
    marks = [
        Mark(landmark.x, landmark.y, str(number), landmark.visibility == "visible")
        for number, landmark in enumerate(prediction.landmarks, start=1)
    ]
    lists = [part for part in (prediction.categories, prediction.attributes) if part]
    lines = [", ".join(f"{name} {100 * share:.0f}%" for name, share in part[:3]) for part in lists]
    legend = [f"{number} {mark.name}" for number, mark in enumerate(prediction.landmarks, start=1)]
    rows = [", ".join(legend[start : start + 3]) for start in range(0, len(legend), 3)]
    return draw_predictions(photo, marks, [*lines, *rows])


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.predict", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="photo files, folders, or @FILE with names")
    add("--workdir", required=True, help="folder or bucket of the trained run")
    add("--output", default="", help="where to write (WORKDIR/predictions)")
    add("--box", type=parse_box, metavar="X_1,Y_1,X_2,Y_2", help="the garment in a single photo")
    add("--shop", action="store_true", help="the photos are a shop's, not customers'")
    add("--top", type=int, default=5, help="categories and attributes to name (5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
