"""A detector for use from Python, on photo files or arrays, without TensorFlow."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from grnet_jax.detection.photos import PhotoDetections, photo_detections
from grnet_jax.errors import InputError, program_name
from grnet_jax.search.embed import check_photo_list, embed_rows, make_detect, small_batch
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import Run, restore_run
from grnet_jax.training.checkpoints import open_workdir
from grnet_jax.training.label_names import LabelNames, read_label_names
from grnet_jax.training.state import TrainState
from input_pipeline import ImageSource, fit_on_canvas, load_image


class LoadedDetector:
    """A detector with its trained parameters.

    Attributes:
      config: the run's config.
      step: the training step of the checkpoint.
      categories: what it finds, by name.
    """

    def __init__(self, run: Run, state: TrainState, labels: LabelNames):
        self.config = run.config
        self.step = int(state.step)
        self.categories = labels.categories
        self._mesh = run.mesh
        self._variables = state.variables
        self._detect = make_detect(run.matcher, run.mesh)

    def detect(self, photos: Sequence[ImageSource]) -> list[PhotoDetections]:
        """Finds the objects of photos.

        Args:
          photos: paths, encoded bytes, or uint8 arrays [h, w, 3], of any sizes.

        Returns:
          What each photo shows, the best first, in pixels of the upright photo.

        Raises:
          InputError: `photos` is a single photo, not a list.
          ImageError: naming the photo that cannot be read.
        """
        check_photo_list(photos, "detect")
        if not len(photos):
            return []
        canvas, sizes = self.config.model.canvas, {}

        def read(row: int) -> tuple[np.ndarray, tuple[int, int]]:
            photo = load_image(photos[row])
            sizes[row] = photo.shape[:2]
            return fit_on_canvas(photo, canvas, self.config.image.interpolation)

        def batches(rows: np.ndarray, batch: int) -> Any:
            for start in range(0, len(rows), batch):
                chosen = rows[start : start + batch]
                # Padding repeats rows; each photo is read once.
                known = {row: read(row) for row in dict.fromkeys(chosen.tolist())}
                images, size = zip(*(known[row] for row in chosen.tolist()), strict=True)
                yield {"image": {"images": np.stack(images), "size": np.array(size, np.int32)}}

        batch = small_batch(len(photos), self.config.eval.batch_size, self._mesh)
        rows = np.arange(len(photos))
        found = embed_rows(
            self._detect, self._variables, batches, rows, batch=batch, mesh=self._mesh
        )
        return [
            photo_detections(found, row, sizes[row], canvas, self.categories)
            for row in range(len(photos))
        ]


def load_detector(workdir: str | os.PathLike[str]) -> LoadedDetector:
    """Loads the best checkpoint of the detector in `workdir`, trained or converted.

    Raises:
      CheckpointError: there is no run, or no checkpoint that is whole.
      InputError: the run is no detector.
    """
    run, state = restore_run(workdir, make_mesh())
    if run.config.model.name != "detector":
        raise InputError(
            f"{workdir}: a run of model.name={run.config.model.name}, which detects nothing: "
            f"{program_name('train')} --config=configs/detector.py trains a detector"
        )
    return LoadedDetector(run, state, read_label_names(open_workdir(workdir)))
