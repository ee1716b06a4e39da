"""A trained matcher for use from Python, on photo files or arrays, without TensorFlow."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from grnet_jax.errors import InputError
from grnet_jax.mesh import make_mesh
from grnet_jax.models import Features
from grnet_jax.photos import crop_and_resize, open_photo
from grnet_jax.retrieval.embedding import embed_rows, make_embed
from grnet_jax.retrieval.ranking import make_score
from grnet_jax.training.setup import Run, restore_run
from grnet_jax.training.state import TrainState

Photo = str | os.PathLike[str] | bytes | np.ndarray
Box = tuple[float, float, float, float]


class LoadedMatcher:
    """A matcher with its trained parameters.

    Photos are cut, resized and normalised exactly as in evaluation.

    Attributes:
      config: the run's config.
      step: the training step of the checkpoint.
    """

    def __init__(self, run: Run, state: TrainState):
        self.config = run.config
        self.step = int(state.step)
        self._mesh = run.mesh
        self._variables = state.variables
        self._embed = make_embed(run.matcher, run.mesh)
        self._score = make_score(run.matcher, run.mesh)

    def embed(self, photos: Sequence[Photo], boxes: Sequence[Box | None] | None = None) -> Features:
        """Features of photos, numpy arrays that lead with the photo axis.

        Args:
          photos: paths, encoded bytes, or uint8 arrays [h, w, 3], of any sizes.
          boxes: the garment in each, (x_1, y_1, x_2, y_2) in pixels of the upright photo;
            None, for all or for one, takes the whole photo.

        Raises:
          InputError: for no photos, or another number of boxes than of photos.
          PhotoError: naming the photo that cannot be read.
        """
        if not len(photos):
            raise InputError("embed: no photos were given")
        if boxes is not None and len(boxes) != len(photos):
            raise InputError(f"embed: {len(photos)} photos, but {len(boxes)} boxes")
        data = self.config.data

        def batches(rows: np.ndarray, batch: int) -> Any:
            for start in range(0, len(rows), batch):
                chosen = rows[start : start + batch]
                yield {
                    "photo": np.stack(
                        [
                            crop_and_resize(
                                open_photo(photos[row], data.max_pixels),
                                boxes[row] if boxes is not None and data.crop == "box" else None,
                                data.image_size,
                            )
                            for row in chosen
                        ]
                    )
                }

        return embed_rows(
            self._embed,
            self._variables,
            batches,
            np.arange(len(photos)),
            batch=self._batch(self.config.eval.batch),
            mesh=self._mesh,
        )

    def score(self, query: Features, gallery: Features) -> np.ndarray:
        """float32 [q, g]: how alike each query is to each gallery photo; higher is more alike.

        For GRNet the logit of "same item"; its sigmoid is the probability.
        """
        q, g = len(query.descriptor), len(gallery.descriptor)
        rows = self._batch(min(self.config.eval.query_block, q))
        columns = min(self.config.eval.gallery_block, g)
        scores = np.empty((q, g), np.float32)
        for top in range(0, q, rows):
            block = _rows(query, top, rows)
            for left in range(0, g, columns):
                part = self._score(self._variables, block, _rows(gallery, left, columns))
                scores[top : top + rows, left : left + columns] = np.asarray(part)[
                    : q - top, : g - left
                ]
        return scores

    def _batch(self, wanted: int) -> int:
        """The next multiple of the number of devices."""
        return -(-wanted // self._mesh.size) * self._mesh.size


def load(workdir: str | os.PathLike[str]) -> LoadedMatcher:
    """The best checkpoint of the run in `workdir`.

    Raises:
      CheckpointError: if there is no run, or no checkpoint that is whole.
    """
    run, state = restore_run(workdir, make_mesh())
    return LoadedMatcher(run, state)


def _rows(features: Features, start: int, size: int) -> Features:
    """Rows from `start`, `size` of them, the last one repeated where they end."""
    take = functools.partial(_take, start=start, size=size)
    return jax.tree.map(take, features)


def _take(leaf: np.ndarray, *, start: int, size: int) -> np.ndarray:
    rows = leaf[start : start + size]
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
