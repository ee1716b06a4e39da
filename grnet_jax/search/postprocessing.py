"""What is done to embeddings once images are embedded: whitening, then query expansion.

Each on what the one before gave, each of unit length in the end:

1. PCA whitening (Jegou and Chum, ECCV 2012), learned on the gallery or on a split's images.
2. Query expansion (Chum et al., ICCV 2007; with weights similarity ** alpha: Radenovic et al.,
   PAMI 2019): every query takes its nearest gallery embeddings in.

All embeddings are in memory, [q, d] and [g, d]; regions stay as they are. Neighbors are found
exactly, in blocks over the mesh.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from grnet_jax.config import SearchConfig
from grnet_jax.errors import InputError
from grnet_jax.models import EmbeddingModel, Features
from grnet_jax.search.features import (
    FeatureSource,
    InMemoryFeatures,
    WithEmbeddings,
    read_embeddings,
)
from grnet_jax.search.ranking import ExhaustiveSearch, SearchResult, find, make_score

_ROWS = 1024
# Directions with less than this share of the largest standard deviation are rounding of float32.
_LEAST_DEVIATION = 1e-5


def postprocess(
    query: FeatureSource,
    gallery: FeatureSource,
    options: SearchConfig,
    groups: Iterable[tuple[np.ndarray, np.ndarray]],
    mesh: Mesh,
    whitening_source: FeatureSource | None = None,
) -> tuple[FeatureSource, FeatureSource]:
    """Returns queries and gallery with other embeddings, and the regions that they have.

    Args:
      query: of q queries.
      gallery: of g images.
      options: what to do, by its fields of whitening and query expansion.
      groups: queries, int [q'], and the part of the gallery that they are ranked against, int
        [g'], in which expansion looks for neighbors.
      mesh: the devices that search for neighbors, all of this process.
      whitening_source: what whitening is learned on; None for the gallery.

    Raises:
      InputError: naming the field that asks for more neighbors or dimensions than there are.
    """
    if not options.whitening and not options.query_expansion:
        return query, gallery
    queries, images = read_embeddings(query), read_embeddings(gallery)
    if options.whitening:
        learned = images if whitening_source is None else read_embeddings(whitening_source)
        whitening = learn_whitening(learned, options.whitening_dim)
        queries, images = whitening.apply(queries), whitening.apply(images)
    if options.query_expansion:
        queries = queries.copy()
        count, alpha = options.query_expansion, options.query_expansion_alpha
        for rows, part in groups:
            if len(part):
                queries[rows] = aggregate_neighbors(queries[rows], images[part], count, alpha, mesh)
    return WithEmbeddings(query, queries), WithEmbeddings(gallery, images)


class Whitening(NamedTuple):
    """A PCA that scales every direction to variance 1.

    Attributes:
      mean: float32 [d].
      projection: float32 [d, k].
    """

    mean: np.ndarray
    projection: np.ndarray

    def apply(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns embeddings [n, d] whitened and of unit length, float32 [n, k]."""
        found = np.empty((len(embeddings), self.projection.shape[1]), np.float32)
        for rows in _blocks(len(embeddings)):
            found[rows] = _unit((embeddings[rows] - self.mean) @ self.projection)
        return found


def learn_whitening(embeddings: np.ndarray, dim: int) -> Whitening:
    """Learns the principal directions of embeddings [n, d], by scikit-learn in float64.

    Args:
      embeddings: to learn on.
      dim: as many directions of the largest variance are kept; 0 for all in which they vary.

    Raises:
      InputError: they vary in fewer directions.
    """
    from sklearn.decomposition import PCA  # loaded only where it is used

    count, size = embeddings.shape
    if (embeddings == embeddings[0]).all():
        raise InputError(f"eval.search.whitening: it is learned on {count:,} embeddings, all alike")
    # Both are exact; the covariance takes less time where images are many.
    solver = "covariance_eigh" if count >= size else "full"
    pca = PCA(svd_solver=solver).fit(embeddings.astype(np.float64))
    deviation = np.sqrt(pca.explained_variance_)
    varying = int((deviation > _LEAST_DEVIATION * deviation[0]).sum())
    if dim > varying:
        raise InputError(
            f"eval.search.whitening_dim={dim}: the {count:,} embeddings of {size} numbers that "
            f"whitening is learned on vary in {varying} directions; expected 0 to {varying}"
        )
    kept = slice(0, dim or varying)
    projection = pca.components_[kept].T / deviation[kept]  # [d, k]
    return Whitening(pca.mean_.astype(np.float32), projection.astype(np.float32))


def aggregate_neighbors(
    embeddings: np.ndarray, gallery: np.ndarray, count: int, alpha: float, mesh: Mesh
) -> np.ndarray:
    """Returns each embedding's weighted mean with its nearest of a gallery, of unit length.

    It weighs 1 itself, and a gallery image max(similarity, 0) ** alpha, similarity the inner
    product: with alpha 0 all weigh the same. Of equally near images the lower row is the nearer.

    Args:
      embeddings: float32 [n, d], of unit length.
      gallery: float32 [g, d], of unit length.
      count: nearest ones to aggregate.
      alpha: exponent of the weights, 0 or more.
      mesh: the devices that search for them.

    Raises:
      InputError: the gallery has fewer.
    """
    if count > len(gallery):
        raise InputError(
            f"eval.search.query_expansion={count}: the gallery has {len(gallery)} images; expected "
            "at most that"
        )
    near = find_neighbors(embeddings, gallery, count, mesh)
    weights = np.maximum(near.scores, 0) ** np.float32(alpha)  # 0 ** 0 is 1
    found = np.empty_like(embeddings)
    for rows in _blocks(len(embeddings)):
        total = np.einsum("nk,nkd->nd", weights[rows], gallery[near.indices[rows]])  # [n, d]
        found[rows] = _unit(embeddings[rows] + total)
    return found


def find_neighbors(
    embeddings: np.ndarray, gallery: np.ndarray, count: int, mesh: Mesh
) -> SearchResult:
    """Finds the gallery's rows nearest to each embedding, and their similarity.

    Args:
      embeddings: float32 [n, d].
      gallery: float32 [g, d].
      count: how many, at most g.
      mesh: the devices, all of this process.
    """
    query, images = (
        InMemoryFeatures(Features(rows))  # type: ignore[arg-type]
        for rows in (embeddings, gallery)
    )
    score = make_score(EmbeddingModel(), mesh)({})
    return find(ExhaustiveSearch(score, images, mesh, count), query)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _blocks(count: int) -> Iterable[slice]:
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))
