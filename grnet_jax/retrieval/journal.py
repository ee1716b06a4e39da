"""What a long computation has found so far, in a file, so that a kill costs minutes."""

import io
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from grnet_jax.errors import InputError

Arrays = Mapping[str, np.ndarray]


class Journal:
    """Named groups of arrays, written to one file now and then by the first process.

    All processes read the file at the start and have to hold the same arrays when they keep them.

    Args:
      path: the file, which lies where every process sees it; None keeps nothing.
      key: what the arrays depend on. A file with another key is of no use and is replaced.
      seconds: that may pass between two writings.
    """

    def __init__(self, path: epath.Path | None = None, key: str = "", seconds: float = 60.0):
        self._path = path
        self._key = key
        self._seconds = seconds
        self._kept: dict[str, Arrays] = {}
        if path is not None:
            content = path.read_bytes() if path.exists() else b""
            check_same_everywhere(content, f"{path}: processes read different contents")
            self._kept = self._parse(content)
        self._written = time.monotonic()

    def find(self, name: str) -> Arrays | None:
        """What was kept under this name, None for nothing."""
        return self._kept.get(name)

    def keep(self, name: str, make: Callable[[], Arrays], *, last: bool = False) -> None:
        """Keeps and writes what `make` returns where it is time to; always where it is the last."""
        due = time.monotonic() - self._written >= self._seconds
        if self._path is None or not (due or last):
            return
        self._kept[name] = make()
        if due:
            self._write()

    def drop(self, name: str) -> None:
        """Forgets what was kept under this name, from the next writing on."""
        self._kept.pop(name, None)

    def remove(self) -> None:
        """Removes the file: the computation is done."""
        if self._path is not None and jax.process_index() == 0:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._path is None or jax.process_index() > 0:
            return
        arrays: dict[str, Any] = {
            f"{name}/{key}": a for name, kept in self._kept.items() for key, a in kept.items()
        }
        content = io.BytesIO()
        arrays["key"] = np.array(self._key)
        np.savez(content, **arrays)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        half = self._path.with_name(f"{self._path.name}.tmp")
        half.write_bytes(content.getvalue())
        half.replace(self._path)  # a kill leaves the old file or the new one

    def _parse(self, content: bytes) -> dict[str, Arrays]:
        if not content:
            return {}
        try:
            with np.load(io.BytesIO(content)) as stored:
                arrays = dict(stored)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            logging.warning("%s is damaged (%s): starting anew.", self._path, error)
            return {}
        if str(arrays.pop("key", "")) != self._key:
            logging.info("%s is of another computation: starting anew.", self._path)
            return {}
        kept: dict[str, dict[str, np.ndarray]] = {}
        for place, array in arrays.items():
            name, key = place.rsplit("/", 1)
            kept.setdefault(name, {})[key] = array
        return {**kept}


def check_same_everywhere(content: bytes, otherwise: str) -> None:
    """Waits for all processes and raises InputError unless they hold the same bytes."""
    if jax.process_count() == 1:
        return
    sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(content)))
    if len(np.unique(sums)) > 1:
        raise InputError(f"{otherwise}. It has to lie on a file system that all of them share")
