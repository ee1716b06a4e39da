"""What a ranking has found so far, one small file a chunk of queries: a kill costs a chunk."""

import io
import zipfile
from collections.abc import Mapping

import numpy as np
from absl import logging
from etils import epath

from input_pipeline import write_file


class ChunkFiles:
    """Arrays of finished chunks in a folder.

    Args:
      folder: where they lie; None keeps nothing.
      key: fingerprint of all that they depend on. Files with another key are replaced.
    """

    def __init__(self, folder: epath.Path | None = None, key: str = ""):
        self._folder = folder
        self._key = key

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Returns what was saved under this name; None for nothing, or nothing of use."""
        path = None if self._folder is None else self._folder / f"{name}.npz"
        if path is None or not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes())) as stored:
                arrays = dict(stored)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            logging.warning("%s is damaged (%s): it is computed again.", path, error)
            return None
        if str(arrays.pop("key", "")) != self._key:
            logging.info("%s is of another ranking: it is computed again.", path)
            return None
        return arrays

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the arrays of a chunk; a kill leaves the whole file or none."""
        if self._folder is None:
            return
        content = io.BytesIO()
        np.savez(content, key=np.array(self._key), **arrays)  # type: ignore[arg-type]
        write_file(self._folder / f"{name}.npz", content.getvalue())

    def remove(self) -> None:
        """Removes the folder: the ranking is done."""
        if self._folder is not None and self._folder.exists():
            self._folder.rmtree()
