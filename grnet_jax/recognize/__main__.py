"""Tells what photos show: the garment's category, attributes and landmarks.

    python -m grnet_jax.recognize street.jpg --workdir=runs/fashionnet_synthetic
    python -m grnet_jax.recognize photos/ other.jpg --workdir=runs/fashionnet_synthetic \\
        --output=recognised
    python -m grnet_jax.recognize street.jpg --box=210,95,640,1180 --workdir=...

Prints what each photo shows; writes recognised.json and each photo with its landmarks drawn in. Of
a folder all files are taken; @list.txt stands for the names in that file, a line each. Files that
are no photos are named, passed over and counted.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from grnet_jax.commands import session
from grnet_jax.errors import InputError, check_at_least
from grnet_jax.figures.explanations import SeenPhoto, frame_photo
from grnet_jax.figures.recognised import Mark, draw_recognised
from grnet_jax.inference import LoadedMatcher
from grnet_jax.mesh import make_mesh
from grnet_jax.recognize.readings import Reading, format_reading, read_photo
from grnet_jax.training.labels import Labels, read_labels
from grnet_jax.training.setup import restore_run
from input_pipeline.images import (
    Box,
    ImageError,
    ImageTransform,
    build_transform,
    check_box,
    load_image,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    with session():
        check_at_least("--top", options.top, 1)
        paths = find_files(options.photos)
        if options.box is not None and len(paths) != 1:
            raise InputError(f"--box: is of one photo, but {len(paths)} were given")
        workdir = epath.Path(options.workdir).expanduser()
        labels = read_labels(workdir)
        matcher = LoadedMatcher(*restore_run(workdir, make_mesh()))
        output = epath.Path(options.output or workdir / "recognised").expanduser()
        told, skipped = _recognise(matcher, labels, paths, options, output)
        path = output / "recognised.json"
        content = {
            "model": matcher.config.name, "step": matcher.step, "photos": told, "skipped": skipped,
        }  # fmt: skip
        if jax.process_index() == 0:
            path.write_text(json.dumps(content, indent=2) + "\n")
            print(f"\n{len(told):,} photos recognised, {len(skipped):,} skipped")
            print(f"Wrote {path} and {len(told):,} pictures beside it")
        if not told:
            raise InputError("none of the files is a photo that can be read; the reasons are above")
    return 0


def _recognise(
    matcher: LoadedMatcher,
    labels: Labels,
    paths: Sequence[epath.Path],
    options: argparse.Namespace,
    output: epath.Path,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Prints and draws what each photo shows; what was told of them, and those skipped."""
    told: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    output.mkdir(parents=True, exist_ok=True)
    framing = build_transform(matcher.config.data, shop=options.shop)
    for photos in _batches(matcher, framing, paths, options.box, skipped):
        boxes = None if options.box is None else [options.box] * len(photos)
        found = matcher.predict([photo.whole for photo in photos], boxes, shop=options.shop)
        for row, photo in enumerate(photos):
            reading = read_photo(found, row, labels, photo.cut, options.top)
            picture = f"{len(told) + 1:04}_{epath.Path(photo.name).stem}.png"
            if jax.process_index() == 0:
                print(format_reading(photo.name, reading), flush=True)
                with (output / picture).open("wb") as file:
                    _draw(photo, reading).save(file, format="PNG")
            told.append({"photo": photo.name, "picture": picture, **dataclasses.asdict(reading)})
    return told, skipped


def _batches(
    matcher: LoadedMatcher,
    framing: ImageTransform,
    paths: Sequence[epath.Path],
    box: Box | None,
    skipped: list[dict[str, str]],
) -> Iterator[list[SeenPhoto]]:
    """Photos as many as are embedded at once; those that cannot be read are named and noted."""
    data, photos = matcher.config.data, []
    if box is not None and framing.crop not in ("box", "detected"):
        raise InputError("--box: this matcher was trained without (data.crop)")
    for path in paths:
        try:
            whole = load_image(path, data.max_pixels)
        except ImageError as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped.append({"photo": str(path), "reason": str(error)})
            continue
        if box is not None:
            check_box(box, whole, "--box")
        photos.append(frame_photo(str(path), whole, box, framing))
        if len(photos) == matcher.config.eval.batch:
            yield photos
            photos = []
    if photos:
        yield photos


def _draw(photo: SeenPhoto, reading: Reading) -> Any:
    marks = [
        Mark(landmark.x, landmark.y, str(number), landmark.visibility == "visible")
        for number, landmark in enumerate(reading.landmarks, start=1)
    ]
    named = [", ".join(f"{name} {100 * share:.0f}%" for name, share in part[:3])
             for part in (reading.categories, reading.attributes) if part]  # fmt: skip
    legend = [f"{number} {mark.name}" for number, mark in enumerate(reading.landmarks, start=1)]
    rows = [", ".join(legend[start : start + 3]) for start in range(0, len(legend), 3)]
    return draw_recognised(photo, marks, [*named, *rows])


def find_files(names: Sequence[str]) -> list[epath.Path]:
    """The files themselves and those of folders, by name, hidden ones left out.

    Raises:
      InputError: a folder has no file, or there is nothing of that name.
    """
    found: list[epath.Path] = []
    for name in names:
        path = epath.Path(name).expanduser()
        if not path.is_dir():
            found.append(path)
            continue
        inside = list(_inside(path))
        if not inside:
            raise InputError(f"{name}: a folder without files")
        found += inside
    return found


def _inside(folder: epath.Path) -> Iterator[epath.Path]:
    """The files of a folder and of those in it, by name."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _inside(path)
        else:
            yield path


def _box(text: str) -> Box:
    """A box as the command line gives it."""
    try:
        x_1, y_1, x_2, y_2 = (float(edge) for edge in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected x_1,y_1,x_2,y_2 in pixels") from None
    return x_1, y_1, x_2, y_2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grnet_jax.recognize", description=__doc__, fromfile_prefix_chars="@"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="photo files, folders, or @FILE with names")
    add("--workdir", required=True, help="folder or bucket of the trained run")
    add("--output", default="", help="where to write (WORKDIR/recognised)")
    add("--box", type=_box, metavar="X_1,Y_1,X_2,Y_2", help="the garment in a single photo, pixels")
    add("--shop", action="store_true", help="the photos are a shop's, not customers'")
    add("--top", type=int, default=5, help="categories and attributes to name (5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
