"""A matcher for use from Python, on photo files or arrays, without TensorFlow."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from grnet_jax.errors import InputError, check_at_least, program_name
from grnet_jax.evaluation.recognition import recognizes_categories
from grnet_jax.metrics import MAX_CHANGE, MAX_ECE, MIN_RESULTS, Listwise
from grnet_jax.models import (
    Features,
    Predictions,
    aligns_cells,
    cell_weights,
    feature_map,
    global_edges,
    is_embedding_model,
    model_inputs,
)
from grnet_jax.search.embed import (
    check_photo_list,
    embed_rows,
    feature_shapes,
    make_embed,
    make_predict,
    small_batch,
)
from grnet_jax.search.features import InMemoryFeatures
from grnet_jax.search.fingerprints import model_fingerprint
from grnet_jax.search.ranking import (
    ExhaustiveSearch,
    Score,
    SearchResult,
    find,
    local_mesh,
    make_score,
    query_block,
    score_matrix,
)
from grnet_jax.search.reranking import make_cascade_scores
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import Run, restore_matcher
from grnet_jax.training.init_from import start_zero_shot
from grnet_jax.training.state import TrainState
from input_pipeline import (
    Box,
    ImageSource,
    ImageTransform,
    build_transform,
    load_crop,
    read_object,
)

# Configs of systems that recognize categories, for those who ask a run that does not.
_RECOGNIZING = ("configs/fashionnet.py", "configs/darn.py", "configs/fir.py")


class RegionPairs(NamedTuple):
    """How a matcher compares the regions, or the cells, of two photos.

    Attributes:
      weights: (query, gallery), features of one photo each -> weights of the graph's edges into the
        global node after reasoning, float32 [n]; of cells that are aligned [cells, cells].
      scales: (rows, columns) of the graph's pyramid; None of cells.
      map_size: (height, width) of the feature map.
    """

    weights: Callable[[Features, Features], np.ndarray]
    scales: Any
    map_size: tuple[int, int]


class RunCalibration(NamedTuple):
    """Probabilities that were fitted when the run was evaluated.

    Attributes:
      listwise: computes them.
      listed: length of the lists that they are of.
      gallery: images that the lists were chosen from.
    """

    listwise: Listwise
    listed: int
    gallery: int


@dataclasses.dataclass(frozen=True)
class Found(SearchResult):
    """What a search found.

    Attributes:
      probabilities: float [q, k], of each image to show the query's item, 0 where there is none;
        None where the run's evaluation says nothing about such a gallery.
    """

    probabilities: np.ndarray | None = None


class LoadedMatcher:
    """A matcher with its trained parameters.

    Photos are cropped, resized and normalized as in evaluation (within one gray level of resizing).

    Attributes:
      config: the run's config.
      step: the training step of the checkpoint.
      mesh: this process's own devices, which score as in evaluation.
      calibration: of its probabilities; None where eval.py measured none that are good enough.
    """

    def __init__(self, run: Run, state: TrainState, calibration: RunCalibration | None = None):
        self.config = run.config
        self.step = int(state.step)
        self.calibration = calibration
        image, search = run.config.image, run.config.eval.search
        # Of customer and of shop photos.
        self._transforms = [build_transform(image, shop=shop) for shop in (False, True)]
        self._mesh = run.mesh
        self._variables = state.variables
        self._matcher = run.matcher
        self._embed = make_embed(run.matcher, run.mesh, search.flip_average)
        self._predict = make_predict(run.matcher, run.mesh)
        self.mesh = local_mesh(run.mesh)
        score = make_score(run.matcher, self.mesh, search.score_dtype)
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
        return self._run("embed", self._embed, photos, boxes, shop)

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
                f"categories. Those of {', '.join(_RECOGNIZING)} do: {program_name('train')} "
                f"--config={_RECOGNIZING[0]}"
            )
        return self._run("predict", self._predict, photos, boxes, shop)

    def _run(
        self,
        what: str,
        call: Callable[[Any, Any], Any],
        photos: Sequence[ImageSource],
        boxes: Sequence[Box | None] | None,
        shop: bool,
    ) -> Any:
        """What a call of (variables, photos) gives for all photos; messages say `what` it is."""
        _check_photos(what, photos, boxes)
        if boxes is not None:
            self.check_takes_boxes(f"{what}: boxes were given", shop)
        given = boxes if boxes is not None else [None] * len(photos)
        transform = self.transform(shop)

        def read(row: int) -> np.ndarray:
            return load_crop(
                photos[row], given[row], transform, box_name=f"{what}: box {row}"
            ).pixels

        return self._run_batches(call, read, len(photos), shop)

    def _run_batches(
        self, call: Callable[[Any, Any], Any], read: Callable[[int], np.ndarray], n: int, shop: bool
    ) -> Any:
        """What a call of (variables, crops) gives for n crops, which threads read."""

        def batches(rows: np.ndarray, batch: int) -> Iterator[dict[str, np.ndarray]]:
            with ThreadPoolExecutor(min(n, os.cpu_count() or 1)) as pool:
                for start in range(0, len(rows), batch):
                    chosen = rows[start : start + batch].tolist()
                    # Padding repeats rows; each photo is read once.
                    once = list(dict.fromkeys(chosen))
                    crops = dict(zip(once, pool.map(read, once), strict=True))
                    pixels = np.stack([crops[row] for row in chosen])
                    seen = {"image": pixels, "domain": np.full(len(chosen), shop, np.int32)}
                    yield {"image": model_inputs(self._matcher, seen)}

        return embed_rows(
            call,
            self._variables,
            batches,
            np.arange(n),
            batch=small_batch(n, self.config.eval.batch_size, self._mesh),
            mesh=self._mesh,
        )

    def transform(self, shop: bool = False) -> ImageTransform:
        """Returns how customer or shop photos become what the matcher sees."""
        return self._transforms[shop]

    def takes_boxes(self, shop: bool = False) -> bool:
        """Returns whether the matcher was trained on what boxes hold."""
        return self.transform(shop).takes_boxes

    def check_takes_boxes(self, what: str, shop: bool = False) -> None:
        """Raises InputError, which begins with `what`, unless the matcher takes boxes."""
        if not self.takes_boxes(shop):
            field = "shop_crop" if shop and self.config.image.shop_crop else "crop"
            raise InputError(f"{what}, but this matcher was trained without (image.{field})")

    def embed_crops(self, crops: np.ndarray, *, shop: bool = False) -> Features:
        """Computes features of what `load_crop` makes of photos, uint8 [n, size, size, 3]."""
        return self._run_batches(self._embed, lambda row: crops[row], len(crops), shop)

    def feature_shapes(self) -> Any:
        """Returns the shapes and dtypes of features, of some number of images."""
        count, side = self._mesh.size, self.config.image.size
        return feature_shapes(self._embed, self._matcher, self._variables, count, side)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Returns that of the matcher: of its config, its images' preprocessing, its parameters."""
        return model_fingerprint(self.config, self._variables)

    @functools.cached_property
    def pair_scores(self) -> Score | None:
        """Returns what scores each query with its own images, for `score_lists`; None where it is
        the inner product of the embeddings."""
        if is_embedding_model(self._matcher):
            return None
        dtype = self.config.eval.search.score_dtype
        return make_cascade_scores(self._matcher, self.mesh, dtype)(self._variables).pairs

    @functools.cached_property
    def region_pairs(self) -> RegionPairs | None:
        """Returns how regions or cells are compared; None where only embeddings are."""
        matcher = self._matcher
        graph: Any = getattr(matcher, "graph", None)
        aligned = aligns_cells(matcher)
        if not aligned and (graph is None or not graph.layers):
            return None

        @jax.jit
        def weights(variables: Any, query: Features, gallery: Features) -> jax.Array:
            if aligned:
                return cell_weights(matcher, variables, query, gallery)[0, 0]
            return global_edges(matcher, variables, query, gallery)[1][0, 0]

        side = self.config.image.size
        image = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
        shape = jax.eval_shape(
            lambda variables, images: feature_map(matcher, variables, images),
            self._variables,
            image,
        ).shape

        def one(query: Features, gallery: Features) -> np.ndarray:
            return np.asarray(weights(self._variables, query, gallery))

        return RegionPairs(one, None if aligned else graph.scales, (shape[1], shape[2]))

    def score(self, query: Features, gallery: Features) -> np.ndarray:
        """Returns how alike each query is to each gallery image, float32 [q, g].

        Higher is more alike.
        """
        mesh = self.mesh
        block = query_block(len(query.embedding), mesh)
        return score_matrix(self._score, query, InMemoryFeatures(gallery), mesh, block)

    def search(self, query: Features, gallery: Features, top_k: int = 10) -> Found:
        """Finds the gallery images that are most alike to each query, best first.

        Args:
          query: of `embed`, q images.
          gallery: of `embed`, g images; scores of many queries with all of it are never held.
          top_k: how many to find, at most g.

        Returns:
          `indices` int32 [q, k], rows of the gallery, and their `scores` float32 [q, k]; with
          `probabilities` where the run was evaluated on a gallery of about the same size (within
          20%), each image taken for an item of its own.

        Raises:
          InputError: top_k is below 1.
        """
        check_at_least("search: top_k", top_k, 1)
        images = InMemoryFeatures(gallery)
        fitted = self.calibration
        if fitted and abs(len(images) - fitted.gallery) > MAX_CHANGE * fitted.gallery:
            fitted = None
        listed = max(top_k, fitted.listed) if fitted else top_k
        search = ExhaustiveSearch(self._score, images, self.mesh, listed)
        found = find(search, InMemoryFeatures(query))
        p = fitted.listwise(found.scores)[0][:, :top_k] if fitted else None
        return Found(found.indices[:, :top_k], found.scores[:, :top_k], p)


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
    run, state = restore_matcher(workdir, make_mesh())
    return LoadedMatcher(run, state, _read_calibration(epath.Path(workdir), int(state.step)))


def _read_calibration(workdir: epath.Path, step: int) -> RunCalibration | None:
    """What eval.py measured of this checkpoint; None if nothing, or nothing that is good."""
    path = workdir.expanduser() / "results.json"
    if not path.exists():
        return None
    try:
        results = read_object(path, "what eval.py wrote")
        found, gallery = results["calibration"], results["protocols"]["all"]["gallery"]
        best = found["best_match"]
        if results["step"] != step or gallery is None:
            return None
        if best["ece"] > MAX_ECE or best["results"] < MIN_RESULTS:
            return None
        return RunCalibration(Listwise(found["scale"], found["none"]), found["listed"], gallery)
    except (InputError, KeyError, TypeError):  # damaged, or of an older version
        return None


def _check_photos(
    what: str, photos: Sequence[ImageSource], boxes: Sequence[Box | None] | None
) -> None:
    check_photo_list(photos, what)
    if not len(photos):
        raise InputError(f"{what}: no photos were given")
    if boxes is not None and len(boxes) != len(photos):
        raise InputError(f"{what}: {len(photos)} photos, but {len(boxes)} boxes")
