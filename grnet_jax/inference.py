"""A trained matcher for use from Python, on photo files or arrays, without TensorFlow."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from grnet_jax.errors import InputError
from grnet_jax.mesh import make_mesh
from grnet_jax.models import Features, Predictions, keep, make_scoring, make_views, photos_of
from grnet_jax.retrieval.embedding import embed_rows, make_embed, make_predict
from grnet_jax.retrieval.ranking import make_score, prepare_score, score_blocks
from grnet_jax.retrieval.recognition import recognises_categories
from grnet_jax.training.setup import Run, restore_run
from grnet_jax.training.state import TrainState
from input_pipeline.images import (
    Box,
    ImageSource,
    ImageTransform,
    build_transform,
    check_box,
    crop_and_resize,
    load_image,
)


class LoadedMatcher:
    """A matcher with its trained parameters.

    Photos are cut, resized and normalised as in evaluation (within one grey level of resizing).

    Attributes:
      config: the run's config.
      step: the training step of the checkpoint.
    """

    def __init__(self, run: Run, state: TrainState):
        self.config = run.config
        self.step = int(state.step)
        # Of customer and of shop photos.
        self._framings = [build_transform(run.config.data, shop=shop) for shop in (False, True)]
        self._mesh = run.mesh
        self._variables = state.variables
        self._matcher = run.matcher
        self._embed = make_embed(run.matcher, run.mesh, make_views(run.config.eval))
        self._predict = make_predict(run.matcher, run.mesh)
        self._scoring = make_scoring(run.config.eval)
        self._score = make_score(run.matcher, run.mesh, self._scoring)
        self._prepared = prepare_score(run.matcher, self._variables, run.mesh, self._scoring)

    def embed(
        self,
        photos: Sequence[ImageSource],
        boxes: Sequence[Box | None] | None = None,
        *,
        shop: bool = False,
    ) -> Features:
        """Features of photos, numpy arrays that lead with the photo axis.

        Args:
          photos: paths, encoded bytes, or uint8 arrays [h, w, 3], of any sizes.
          boxes: the garment in each, (x_1, y_1, x_2, y_2) in pixels of the upright photo;
            None, for all or for one, takes the whole photo (its middle where `data.crop` is
            "center").
          shop: whether they are shop photos, which `data.shop_crop` may cut otherwise.

        Raises:
          InputError: for no photos, another number of boxes than of photos, boxes for a matcher
            that was trained without, or a box that is none.
          ImageError: naming the photo that cannot be read.
        """
        return self._run(self._embed, photos, boxes, shop)

    def predict(
        self,
        photos: Sequence[ImageSource],
        boxes: Sequence[Box | None] | None = None,
        *,
        shop: bool = False,
    ) -> Predictions:
        """What is recognised in photos, numpy arrays that lead with the photo axis.

        Arguments and errors as of `embed`; also:

        Raises:
          InputError: for a matcher that recognises nothing.
        """
        if not recognises_categories(self._matcher, self.config):
            raise InputError(f"predict: model.name={self.config.model.name} recognises nothing")
        return self._run(self._predict, photos, boxes, shop)

    def _run(
        self,
        call: Callable[[Any, Any], Any],
        photos: Sequence[ImageSource],
        boxes: Sequence[Box | None] | None,
        shop: bool,
    ) -> Any:
        """What a call of (variables, photos) gives for all photos."""
        _check_photos(photos, boxes)
        framing = self._framings[shop]
        if boxes is not None and framing.crop not in ("box", "detected"):
            field = "data.shop_crop" if shop and self.config.data.shop_crop else "data.crop"
            raise InputError(
                f"embed: boxes were given, but this matcher was trained without ({field})"
            )

        boxes = boxes if boxes is not None else [None] * len(photos)

        def batches(rows: np.ndarray, batch: int) -> Iterator[dict[str, np.ndarray]]:
            for start in range(0, len(rows), batch):
                chosen = rows[start : start + batch]
                # Padding repeats rows; each photo is read once.
                read = {
                    row: self._read(photos[row], boxes[row], row, framing)
                    for row in dict.fromkeys(chosen)
                }
                pixels = np.stack([read[row] for row in chosen])
                domain = np.full(len(chosen), shop, np.int32)
                batch_read = {"photo": pixels, "domain": domain}
                yield {"photo": photos_of(self._matcher, batch_read)}

        # Few photos make a smaller batch; powers of two keep the number of compilations small.
        batch = min(self.config.eval.batch, 1 << (len(photos) - 1).bit_length())
        return embed_rows(
            call,
            self._variables,
            batches,
            np.arange(len(photos)),
            batch=self._shared(batch),
            mesh=self._mesh,
        )

    def score(self, query: Features, gallery: Features) -> np.ndarray:
        """float32 [q, g]: how alike each query is to each gallery photo; higher is more alike.

        For GRNet the logit of "same item"; its sigmoid is the probability.
        """
        blocks = score_blocks(
            self._score,
            self._prepared,
            query,
            keep(gallery, self._scoring),
            query_block=self._shared(min(self.config.eval.query_block, len(query.descriptor))),
            gallery_block=self.config.eval.gallery_block,
            mesh=self._mesh,
        )
        return np.concatenate([scores for _, scores in blocks])

    def _read(
        self, source: ImageSource, box: Box | None, number: int, framing: ImageTransform
    ) -> np.ndarray:
        photo = load_image(source, self.config.data.max_pixels)
        if box is not None:
            check_box(box, photo, f"embed: box {number}")
        return crop_and_resize(photo, box, framing)

    def _shared(self, wanted: int) -> int:
        """The next multiple of the number of devices."""
        return -(-wanted // self._mesh.size) * self._mesh.size


def load(workdir: str | os.PathLike[str]) -> LoadedMatcher:
    """The best checkpoint of the run in `workdir`.

    Raises:
      CheckpointError: if there is no run, or no checkpoint that is whole.
    """
    run, state = restore_run(workdir, make_mesh())
    return LoadedMatcher(run, state)


def _check_photos(photos: Sequence[ImageSource], boxes: Sequence[Box | None] | None) -> None:
    if isinstance(photos, str | bytes | os.PathLike) or getattr(photos, "ndim", 4) == 3:
        raise InputError("embed: expected a list of photos, got a single one: write [photo]")
    if not len(photos):
        raise InputError("embed: no photos were given")
    if boxes is not None and len(boxes) != len(photos):
        raise InputError(f"embed: {len(photos)} photos, but {len(boxes)} boxes")
