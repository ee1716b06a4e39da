"""The photo files that a command is given."""

import os
from collections.abc import Iterator, Sequence

from etils import epath

from grnet_jax.errors import InputError
from input_pipeline import read_lines, to_path


def find_files(names: Sequence[str]) -> list[epath.Path]:
    """Returns the files themselves and those of folders, by name, hidden ones left out.

    Raises:
      InputError: a folder has no file, or there is nothing of that name.
    """
    files: list[epath.Path] = []
    listed = [name[1:] for name in names if name.startswith("@")]
    lines = [line.strip() for name in listed for line in read_lines(to_path(name, "@FILE"))]
    for name in [name for name in [*names, *lines] if name and not name.startswith("@")]:
        path = to_path(name, "photo")
        if not path.is_dir():
            files.append(path)
            continue
        inside = list(_inside(path))
        if not inside:
            raise InputError(f"{name}: a folder without files")
        files += inside
    return files


def picture_name(number: int, photo: str) -> str:
    """Returns the name, without ending, of the picture that is drawn of a photo."""
    return f"{number:04}_{epath.Path(photo).stem.encode()[:200].decode(errors='ignore')}"


def _inside(folder: epath.Path) -> Iterator[epath.Path]:
    """The files of a folder and of those in it, by name; links to folders above are passed over."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            above = os.path.realpath(path)
            if os.path.commonpath([above, os.path.realpath(folder)]) == above:
                continue
            yield from _inside(path)
        else:
            yield path
