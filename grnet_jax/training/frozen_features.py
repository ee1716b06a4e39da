"""Feature maps of frozen layers, computed once for all steps and runs.

Where the first layers of the backbone keep their weights (`optimizer.trainable`), a training step
need not apply them: with `train.cached_views` their map of so many views of each training image,
randomly cropped and changed, is computed once and kept in a file beside the prepared data. Its name
has a digest of all that the maps depend on, so that runs of other seeds, heads and losses share it.
"""

import functools
import os
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.evaluation.progress import advance, progress_bar
from grnet_jax.models import ImagesAsMaps, has_feature_map, needs_domain
from grnet_jax.models.feature_maps import backbone_map
from grnet_jax.search.embed import embed_batches
from grnet_jax.search.fingerprints import fingerprint
from grnet_jax.sharding import replicated, sharded
from grnet_jax.training.build import Run
from grnet_jax.training.optimizers import trainable_mask
from grnet_jax.training.state import TrainState
from input_pipeline import preparation_lock

_IMAGES = ("customer", "shop", "image")  # what a batch has pixels or maps in
_BATCH_PER_DEVICE = 64
_BESIDE_THE_MAP = {"pretrained", "stride", "reduction_channels"}  # not what it is made from


class FrozenFeatures(NamedTuple):
    """Maps of all views of a split's images.

    Attributes:
      maps: float16 [views of all images, h, w, c], view v of row r at r * views + v.
      stride: of `ImagesAsMaps`.
    """

    maps: np.ndarray
    stride: int

    def read(self, views: np.ndarray) -> np.ndarray:
        """Returns the maps of these views, [n, h, w, c]."""
        return self.maps[views]

    def wrap(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch of such maps as matchers take it."""
        wrapped = {n: ImagesAsMaps(batch[n], self.stride) for n in _IMAGES if n in batch}
        return batch | wrapped


def load_frozen_features(
    run: Run, state: TrainState, split: Any, directory: Any, described: str
) -> FrozenFeatures:
    """Returns the maps of a split's views, computed and written where no file has them.

    Args:
      run: whose backbone, `optimizer.trainable` and `train.cached_views`.
      state: its variables.
      split: the images.
      directory: a local folder for the file.
      described: what the images and their crops are made from.

    Raises:
      InputError: no layer stays, the matcher needs more than maps, or the folder is not local.
    """
    if "://" in os.fspath(directory):
        raise InputError(f"train.cached_views: dataset.dir={directory}: expected a local folder")
    stride, whole = _find_frozen(run, state)
    backbone = {kind: tree.get("backbone", {}) for kind, tree in state.variables.items()}
    if not whole:
        behind = run.matcher.backbone.layers_behind(stride)
        backbone = {k: {n: x for n, x in v.items() if n not in behind} for k, v in backbone.items()}
    name = fingerprint(
        [
            described,
            stride,
            run.config.train.cached_views,
            run.config.image.model_dump(exclude={"detections", "keypoints"}),
            run.config.augment.model_dump(),
            run.config.model.backbone.model_dump(exclude=_BESIDE_THE_MAP),
            *(np.asarray(leaf) for leaf in jax.tree.leaves(backbone)),
        ]
    )
    path = epath.Path(directory) / "maps" / f"{name}.npy"
    with preparation_lock(path.with_suffix(".lock")) if jax.process_index() == 0 else nullcontext():
        if not path.exists():
            _write(path, run, state, split, stride, whole)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("maps written")
    return FrozenFeatures(np.load(path, mmap_mode="r"), 0 if whole else stride)


def _find_frozen(run: Run, state: TrainState) -> tuple[int, bool]:
    """Returns the stride of the last map whose layers all stay, and whether the backbone does."""
    matcher, trainable = run.matcher, run.config.optimizer.trainable
    others = ("needs_keypoints", "color_weight", "attention_stride", "own_backbone")
    sees_other_maps = any(getattr(matcher, name, None) for name in others)
    needs_images = needs_domain(matcher) or sees_other_maps
    if needs_images or not has_feature_map(matcher):
        raise InputError(
            f"train.cached_views: model.name={run.config.model.name} needs images in every step; "
            "expected a matcher that sees maps alone"
        )
    learns = {
        name
        for name, part in trainable_mask(state.params, trainable).get("backbone", {}).items()
        if any(jax.tree.leaves(part))
    }
    size = run.config.image.size
    maps = jax.eval_shape(
        lambda images: matcher.apply(state.variables, images, method=_maps),
        jax.ShapeDtypeStruct((1, size, size, 3), np.uint8),
    )
    if not learns:
        return max(maps), True
    for stride in sorted(maps, reverse=True)[1:]:
        behind: set[str] = getattr(matcher.backbone, "layers_behind", lambda _: set())(stride)
        if learns <= behind and not getattr(matcher, "cell_color_weight", 0):  # colors need images
            return stride, False
    raise InputError(
        f"train.cached_views: with optimizer.trainable={trainable!r} no map of "
        f"{run.config.model.backbone.name} stays; expected parts without its first layers"
    )


def _maps(matcher: Any, images: jax.Array) -> dict[int, jax.Array]:
    """Returns the backbone's maps by stride."""
    maps: dict[int, jax.Array] = matcher.backbone(normalize(images, matcher.preprocessing), False)
    return maps


def _write(
    path: epath.Path, run: Run, state: TrainState, split: Any, stride: int, whole: bool
) -> None:
    """Computes the maps of all views and writes their file, under its name once it is whole."""
    from input_pipeline import view_batches  # needs TensorFlow

    config, count = run.config, run.config.train.cached_views

    def compute(variables: Any, images: jax.Array) -> jax.Array:
        found: Any
        if whole:
            found = run.matcher.apply(variables, images, method=backbone_map)
        else:
            found = run.matcher.apply(variables, images, method=_maps)[stride]
        return found.astype(jnp.float16)

    embed = jax.jit(
        compute,
        in_shardings=(replicated(run.mesh), sharded(run.mesh)),
        out_shardings=replicated(run.mesh),
    )
    views = np.arange(len(split) * count)

    def batches(rows: np.ndarray, batch: int) -> Any:
        return view_batches(split, rows, config.image, config.augment, count=count, batch=batch)

    partial, stored = path.with_suffix(".partial"), None  # a killed run's is written over
    with progress_bar(len(views), "frozen features", "image") as bar:
        for start, maps in embed_batches(
            embed,
            state.variables,
            batches,
            views,
            batch=_BATCH_PER_DEVICE * run.mesh.size,
            mesh=run.mesh,
            progress=functools.partial(advance, bar),
        ):
            if not np.isfinite(maps).all():
                raise InputError("train.cached_views: these maps leave the range of float16")
            if jax.process_index() == 0:
                if stored is None:
                    shape = (len(views), *maps.shape[1:])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    stored = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
                stored[start : start + len(maps)] = maps
    if stored is not None:
        stored.flush()
        partial.rename(path)
        logging.info("Frozen features of %d views: %s", len(views), path)
