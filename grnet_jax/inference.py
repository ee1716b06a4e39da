"""A matcher for use from Python, on photo files or arrays, without TensorFlow."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from grnet_jax.errors import InputError, check_at_least
from grnet_jax.evaluation.recognition import recognizes_categories
from grnet_jax.models import Features, Predictions, model_inputs
from grnet_jax.search.embed import embed_rows, make_embed, make_predict
from grnet_jax.search.features import InMemoryFeatures
from grnet_jax.search.ranking import (
    ExhaustiveSearch,
    SearchResult,
    find,
    local_mesh,
    make_score,
    query_block,
    score_matrix,
)
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import Run, restore_run
from grnet_jax.training.init_from import start_zero_shot
from grnet_jax.training.state import TrainState
from input_pipeline import (
    Box,
    ImageSource,
    ImageTransform,
    build_transform,
    check_box,
    crop_and_resize,
    load_image,
)

# Configs of systems that recognize categories, for those who ask a run that does not.
_RECOGNIZING = ("configs/fashionnet.py", "configs/darn.py", "configs/fir.py")


class LoadedMatcher:
    """A matcher with its trained parameters.

    Photos are cropped, resized and normalized as in evaluation (within one gray level of resizing).

    Attributes:
      config: the run's config.
      step: the training step of the checkpoint.
    """

    def __init__(self, run: Run, state: TrainState):
        self.config = run.config
        self.step = int(state.step)
        image, search = run.config.image, run.config.eval.search
        # Of customer and of shop photos.
        self._transforms = [build_transform(image, shop=shop) for shop in (False, True)]
        self._mesh = run.mesh
        self._variables = state.variables
        self._matcher = run.matcher
        self._embed = make_embed(run.matcher, run.mesh, search.flip_average)
        self._predict = make_predict(run.matcher, run.mesh)
        # Of this process's own devices, as in evaluation.
        self._local_mesh = local_mesh(run.mesh)
        score = make_score(run.matcher, self._local_mesh, search.score_dtype)
        self._score = score(self._variables)

    def embed(
        self,
        photos: Sequence[ImageSource],
        boxes: Sequence[Box | None] | None = None,
        *,
        shop: bool = False,
    ) -> Features:
        """Computes features of photos, numpy arrays that lead with the photo axis.

        Args:
          photos: paths, encoded bytes, or uint8 arrays [h, w, 3], of any sizes.
          boxes: the garment in each, (x_1, y_1, x_2, y_2) in pixels of the upright photo;
            None, for all or for one, takes the whole photo (its middle where `image.crop` is
            "center").
          shop: whether they are shop photos, which `image.shop_crop` may crop otherwise.

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
        """Recognizes what photos show, numpy arrays that lead with the photo axis.

        Arguments and errors as of `embed`; also:

        Raises:
          InputError: for a matcher that recognizes no categories.
        """
        if not recognizes_categories(self._matcher, self.config):
            raise InputError(
                f"predict: a run of model.name={self.config.model.name}, which recognizes no "
                f"categories. Those of {', '.join(_RECOGNIZING)} do: python train.py "
                f"--config={_RECOGNIZING[0]}"
            )
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
        transform = self._transforms[shop]
        if boxes is not None and transform.crop not in ("box", "detected"):
            field = "shop_crop" if shop and self.config.image.shop_crop else "crop"
            raise InputError(
                f"embed: boxes were given, but this matcher was trained without (image.{field})"
            )

        boxes = boxes if boxes is not None else [None] * len(photos)

        def batches(rows: np.ndarray, batch: int) -> Iterator[dict[str, np.ndarray]]:
            for start in range(0, len(rows), batch):
                chosen = rows[start : start + batch]
                # Padding repeats rows; each photo is read once.
                read = {
                    row: self._read(photos[row], boxes[row], row, transform)
                    for row in dict.fromkeys(chosen)
                }
                pixels = np.stack([read[row] for row in chosen])
                domain = np.full(len(chosen), shop, np.int32)
                batch_read = {"image": pixels, "domain": domain}
                yield {"image": model_inputs(self._matcher, batch_read)}

        # Few photos make a smaller batch; powers of two keep the number of compilations small.
        batch = min(self.config.eval.batch_size, 1 << (len(photos) - 1).bit_length())
        return embed_rows(
            call,
            self._variables,
            batches,
            np.arange(len(photos)),
            batch=self._shared(batch),
            mesh=self._mesh,
        )

    def score(self, query: Features, gallery: Features) -> np.ndarray:
        """Returns how alike each query is to each gallery image, float32 [q, g].

        Higher is more alike. For GRNet it is the logit of "same item"; its sigmoid is the
        probability.
        """
        mesh = self._local_mesh
        block = query_block(len(query.embedding), mesh)
        return score_matrix(self._score, query, InMemoryFeatures(gallery), mesh, block)

    def search(self, query: Features, gallery: Features, top_k: int = 10) -> SearchResult:
        """Finds the gallery images that are most alike to each query, best first.

        Args:
          query: of `embed`, q images.
          gallery: of `embed`, g images; scores of many queries with all of it are never held.
          top_k: how many to find, at most g.

        Returns:
          `indices` int32 [q, k], rows of the gallery, and their `scores` float32 [q, k].

        Raises:
          InputError: top_k is below 1.
        """
        check_at_least("search: top_k", top_k, 1)
        images = InMemoryFeatures(gallery)
        search = ExhaustiveSearch(self._score, images, self._local_mesh, top_k)
        return find(search, InMemoryFeatures(query))

    def _read(
        self, source: ImageSource, box: Box | None, number: int, transform: ImageTransform
    ) -> np.ndarray:
        photo = load_image(source)
        if box is not None:
            check_box(box, photo, f"embed: box {number}")
        return crop_and_resize(photo, box, transform)

    def _shared(self, wanted: int) -> int:
        """The next multiple of the number of devices."""
        return -(-wanted // self._mesh.size) * self._mesh.size


def load(workdir: str | os.PathLike[str]) -> LoadedMatcher:
    """Loads the best checkpoint of the run in `workdir`, or a matcher that needs no training.

    "imagenet:NAME" is the latter: the backbone of that name with the ImageNet weights of an
    installed package, as configs/zero_shot.py has it.

    Raises:
      CheckpointError: if there is no run, or no checkpoint that is whole.
      InputError: no package has weights of that backbone, or it is not installed; or the run is a
        detector's.
    """
    kind, _, name = os.fspath(workdir).partition(":")
    if kind == "imagenet":
        return LoadedMatcher(*start_zero_shot(name, make_mesh()))
    run, state = restore_run(workdir, make_mesh())
    if run.config.model.name == "detector":
        raise InputError(f"{workdir}: a detector, which embeds nothing: grnet_jax.load_detector")
    return LoadedMatcher(run, state)


def _check_photos(photos: Sequence[ImageSource], boxes: Sequence[Box | None] | None) -> None:
    single = isinstance(photos, str | bytes | os.PathLike) or getattr(photos, "ndim", 4) == 3
    if single or not hasattr(photos, "__len__"):
        raise InputError(
            f"embed: expected a list of photos, got {type(photos).__name__}: write [photo]"
        )
    if not len(photos):
        raise InputError("embed: no photos were given")
    if boxes is not None and len(boxes) != len(photos):
        raise InputError(f"embed: {len(photos)} photos, but {len(boxes)} boxes")
