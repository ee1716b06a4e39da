"""What is done to descriptors once photos are embedded: whitening, augmentation, expansion.

In this order, each on what the one before gave, each of unit length in the end:

1. PCA whitening (Jegou and Chum, ECCV 2012), learned on the gallery or on a split's photos.
2. Database-side augmentation (Arandjelovic and Zisserman, CVPR 2012): every gallery descriptor
   takes in its nearest others.
3. Query expansion (Chum et al., ICCV 2007; with weights similarity ** alpha: Radenovic et al.,
   PAMI 2019): every query takes in its nearest gallery descriptors.

All descriptors are in memory, [q, d] and [g, d]; regions stay where they are. Neighbours are found
exactly, in blocks over the mesh.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from grnet_jax.errors import InputError, check_at_least
from grnet_jax.models import Features, InnerProduct
from grnet_jax.retrieval.ranking import make_score, rank_all
from grnet_jax.retrieval.sources import FeatureSource, HeldFeatures, read_blocks
from grnet_jax.retrieval.tasks import Group

_READ_ROWS = 1024
# Directions with less than this share of the largest standard deviation are rounding of float32.
_LEAST_DEVIATION = 1e-5


class Postprocessing(NamedTuple):
    """What to do to descriptors; fields of `config.eval`.

    Attributes:
      whitening: "gallery", the name of a split, or "" for none.
      whitening_dim: dimensions kept; 0 for all in which the descriptors vary.
      database_augmentation: gallery photos that each gallery photo takes in; 0 for none.
      database_augmentation_alpha: they weigh similarity ** alpha, the photo itself 1.
      query_expansion: gallery photos that each query takes in; 0 for none.
      query_expansion_alpha: they weigh similarity ** alpha, the query itself 1.
    """

    whitening: str = ""
    whitening_dim: int = 0
    database_augmentation: int = 0
    database_augmentation_alpha: float = 0.0
    query_expansion: int = 0
    query_expansion_alpha: float = 0.0

    def chosen(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in self._asdict().items() if value}


def make_postprocessing(evaluation: Any) -> Postprocessing:
    """The post-processing that `config.eval` describes.

    Raises:
      InputError: naming the field that is too small, or has no effect without another.
    """
    found = Postprocessing(**{name: evaluation[name] for name in Postprocessing._fields})
    for field, owner in (
        ("whitening_dim", "whitening"),
        ("database_augmentation", ""),
        ("database_augmentation_alpha", "database_augmentation"),
        ("query_expansion", ""),
        ("query_expansion_alpha", "query_expansion"),
    ):
        value = evaluation[field]
        check_at_least(f"eval.{field}", value, 0)
        if owner and value and not evaluation[owner]:
            raise InputError(f"eval.{field}={value} does nothing while eval.{owner} is not set")
    return found


class Neighbours(NamedTuple):
    """How neighbours are searched; as `rank_all` takes it.

    Attributes:
      mesh: the devices.
      query_block: queries compared at once, a multiple of the number of devices.
      gallery_block: gallery photos compared at once.
      held_queries: queries on the devices at once.
    """

    mesh: Mesh
    query_block: int
    gallery_block: int
    held_queries: int


def postprocess(
    query: FeatureSource,
    gallery: FeatureSource,
    options: Postprocessing,
    groups: Iterable[Group],
    search: Neighbours,
    learned_on: FeatureSource | None = None,
) -> tuple[FeatureSource, FeatureSource]:
    """Queries and gallery with other descriptors, and the regions that they have.

    Args:
      query: of q queries.
      gallery: of g photos.
      options: what to do.
      groups: expansion and augmentation take neighbours from the part of the gallery that the
        query is ranked against.
      search: how neighbours are searched.
      learned_on: what whitening is learned on; None for the gallery.

    Raises:
      InputError: naming the field that asks for more neighbours or dimensions than there are.
    """
    if options == Postprocessing():
        return query, gallery
    queries, photos = read_descriptors(query), read_descriptors(gallery)
    if options.whitening:
        learned = photos if learned_on is None else read_descriptors(learned_on)
        whitening = learn_whitening(learned, options.whitening_dim)
        queries, photos = whitening.apply(queries), whitening.apply(photos)
    searched = [group for group in groups if len(group.gallery)]
    if options.database_augmentation:
        photos = photos.copy()
        for group in searched:
            part = photos[group.gallery]
            photos[group.gallery] = take_in(
                part,
                part,
                options.database_augmentation,
                options.database_augmentation_alpha,
                search,
                of_itself=True,
            )
    if options.query_expansion:
        queries = queries.copy()
        for group in searched:
            queries[group.queries] = take_in(
                queries[group.queries],
                photos[group.gallery],
                options.query_expansion,
                options.query_expansion_alpha,
                search,
            )
    return _Redescribed(query, queries), _Redescribed(gallery, photos)


@dataclasses.dataclass(frozen=True)
class _Redescribed:
    """A source with other descriptors, float32 [n, d]."""

    source: FeatureSource
    changed: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> Features:
        """These rows, with the new descriptors."""
        found = self.source.take(rows)
        return dataclasses.replace(found, descriptor=self.changed[rows])

    def descriptors(self) -> HeldFeatures:
        """The new descriptors alone."""
        return HeldFeatures(_described(self.changed))


def read_descriptors(source: FeatureSource) -> np.ndarray:
    """float32 [n, d] of all photos of a source."""
    size = min(_READ_ROWS, len(source))
    parts = [
        np.asarray(features.descriptor[:there], np.float32)
        for _, there, features in read_blocks(source.descriptors(), size)
    ]
    return np.concatenate(parts)


class Whitening(NamedTuple):
    """A PCA that scales every direction to variance 1.

    Attributes:
      mean: float32 [d].
      projection: float32 [d, k].
    """

    mean: np.ndarray
    projection: np.ndarray

    def apply(self, descriptors: np.ndarray) -> np.ndarray:
        """float32 [n, k], whitened and of unit length, of descriptors [n, d]."""
        found = np.empty((len(descriptors), self.projection.shape[1]), np.float32)
        for rows in _blocks(len(descriptors)):
            found[rows] = _unit((descriptors[rows] - self.mean) @ self.projection)
        return found


def learn_whitening(descriptors: np.ndarray, dim: int) -> Whitening:
    """The principal directions of descriptors [n, d], by scikit-learn in float64.

    Args:
      descriptors: to learn on.
      dim: as many directions of the largest variance are kept; 0 for all in which they vary.

    Raises:
      InputError: they vary in fewer directions.
    """
    from sklearn.decomposition import PCA  # loaded only where it is used

    count, size = descriptors.shape
    if (descriptors == descriptors[0]).all():
        raise InputError(f"eval.whitening: it is learned on {count:,} descriptors, all alike")
    # Both are exact; the covariance takes less time where photos are many.
    solver = "covariance_eigh" if count >= size else "full"
    pca = PCA(svd_solver=solver).fit(descriptors.astype(np.float64))
    deviation = np.sqrt(pca.explained_variance_)
    varying = int((deviation > _LEAST_DEVIATION * deviation[0]).sum())
    if dim > varying:
        raise InputError(
            f"eval.whitening_dim={dim}: the {count:,} descriptors of {size} numbers that whitening "
            f"is learned on vary in {varying} directions; expected 0 to {varying}"
        )
    kept = slice(0, dim or varying)
    projection = pca.components_[kept].T / deviation[kept]  # [d, k]
    return Whitening(pca.mean_.astype(np.float32), projection.astype(np.float32))


def take_in(
    descriptors: np.ndarray,
    gallery: np.ndarray,
    count: int,
    alpha: float,
    search: Neighbours,
    *,
    of_itself: bool = False,
) -> np.ndarray:
    """Each descriptor's weighted mean with its nearest ones of a gallery, of unit length.

    It weighs 1 itself, and a gallery photo max(similarity, 0) ** alpha, similarity the inner
    product: with alpha 0 all weigh the same. Of equally near photos the lower row is the nearer.

    Args:
      descriptors: float32 [n, d], of unit length.
      gallery: float32 [g, d], of unit length.
      count: nearest ones to take in.
      alpha: exponent of the weights, 0 or more.
      search: how they are searched.
      of_itself: the descriptors are the gallery's own, and none is its own neighbour.

    Raises:
      InputError: the gallery has fewer.
    """
    there = len(gallery) - of_itself
    if count > there:
        field = "database_augmentation" if of_itself else "query_expansion"
        others = "other photos" if of_itself else "photos"
        raise InputError(
            f"eval.{field}={count}: the gallery has {there} {others}; expected at most that"
        )
    rows, similarity = nearest(descriptors, gallery, count + of_itself, search)
    if of_itself:
        rows, similarity = _leave_out(np.arange(len(gallery)), rows, similarity)
    weights = np.maximum(similarity, 0) ** np.float32(alpha)  # 0 ** 0 is 1
    found = np.empty_like(descriptors)
    for some in _blocks(len(descriptors)):
        taken = np.einsum("nk,nkd->nd", weights[some], gallery[rows[some]])  # [n, d]
        found[some] = _unit(descriptors[some] + taken)
    return found


def nearest(
    descriptors: np.ndarray, gallery: np.ndarray, count: int, search: Neighbours
) -> tuple[np.ndarray, np.ndarray]:
    """The gallery's rows int [n, k] nearest to each descriptor, best first, and their similarity.

    Args:
      descriptors: float32 [n, d].
      gallery: float32 [g, d].
      count: k, at most g.
      search: how they are searched.
    """
    query, photos = (HeldFeatures(_described(some)) for some in (descriptors, gallery))
    ranking = rank_all(
        make_score(InnerProduct(), search.mesh),
        {},
        query,
        photos,
        np.full((len(descriptors), 1), -1, np.int32),  # nothing is counted
        top=count,
        **search._asdict(),
    )
    return ranking.top_rows, ranking.top_scores


def _described(descriptors: Any) -> Features:
    return Features(descriptors)


def _leave_out(
    own: np.ndarray, rows: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours [n, k + 1] without the row itself [n]; without the last where that is not there.

    A photo is not among its own neighbours where more than k others are its very copies.
    """
    keep = rows != own[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = len(rows), rows.shape[1] - 1
    return rows[keep].reshape(shape), similarity[keep].reshape(shape)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _blocks(count: int) -> Iterable[slice]:
    return (slice(start, start + _READ_ROWS) for start in range(0, count, _READ_ROWS))


def check_descriptors_used(options: Postprocessing, five_crop_share: float, used: bool) -> None:
    """Raises InputError where descriptors are changed that no score depends on.

    Args:
      options: what is to be done to them.
      five_crop_share: of `Views`.
      used: whether the matcher scores descriptors.
    """
    fields = list(options.chosen()) + ["five_crop_share"] * bool(five_crop_share)
    if fields and not used:
        names = ", ".join(f"eval.{name}" for name in fields)
        raise InputError(
            f"{names}: changes descriptors, and this matcher scores regions: its figures would "
            "stay as they are. Leave it at its default (eval.flip_average works on regions)"
        )
