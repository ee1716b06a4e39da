"""The graph's score with the least work: the function of `reasoning.py`, arranged for inference.

What depends on the parameters alone is multiplied out once a model (`fuse`). Pairs are compared a
few at a time (`in_tiles`), so that what lies between the products stays in cache. The difference of
two regions is formed before it is squared, as in `reasoning.py`: no expanded form keeps five
digits on near-duplicates. docs/performance.md has what each arrangement was measured to bring.
"""

import itertools
from collections.abc import Callable, Sequence

import flax
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from grnet_jax.graph.pyramid import Scales
from grnet_jax.graph.reasoning import (
    match_logit,
    product,
    region_differences,
    squared_length,
)

# The columns of the quasi-triangular factor are cut into so many blocks; what lies under a block is
# zero and left out. More blocks skip more, in products that are less efficient.
EDGE_BLOCKS = 4

# As in Eq. 4's normalisation, but no gradient needs more than the inverse root itself to be finite:
# images that differ by a millionth keep five digits.
_SQUARED_LENGTH_FLOOR = 1e-36

# Bytes that a tile's comparisons take on a CPU.
_TILE_BYTES = 2**21


@flax.struct.dataclass
class FusedScorer:
    """A graph's parameters as `score_pairs` takes them; products are made in the arrays' dtype.

    With the real Schur form T_out^T T_in = Q U Q^T, projected differences are turned by Q^T, which
    keeps their lengths and is multiplied into P. U is triangular but for 2x2 blocks on its
    diagonal.

    Attributes:
      projection: Q^T P transposed, [c, d].
      edges: U's columns in blocks, each without the rows that are zero in it; beside the last
        block, which has all d rows, the first layer's W times Q, transposed, [d, k].
      layers: W transposed of the layers after the first, [k, k].
      weight: the score's, [k].
      bias: the score's, a number.
      edge_bias: added to the edges' affinities, [n, n] (from, to); None for nothing.
      scales: the pyramid's (rows, columns).
    """

    projection: jax.Array
    edges: tuple[jax.Array, ...]
    layers: tuple[jax.Array, ...]
    weight: jax.Array
    bias: jax.Array
    edge_bias: jax.Array | None
    scales: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False)


def fuse(
    projection: jax.Array,
    transform_out: jax.Array,
    transform_in: jax.Array,
    layers: Sequence[jax.Array],
    weight: jax.Array,
    bias: jax.Array,
    *,
    edge_bias: jax.Array | np.ndarray | None,
    scales: Scales,
    dtype: str | np.dtype,
    edge_blocks: int = EDGE_BLOCKS,
) -> FusedScorer:
    """Multiplies out what the parameters alone give, on the host in float64.

    Args:
      projection: P transposed, [c, d].
      transform_out: T_out of the edges that all layers share, [d, d].
      transform_in: T_in, likewise.
      layers: W transposed of each layer, [d, k], then [k, k]; two at least.
      weight: the score's, [k].
      bias: the score's, a number.
      edge_bias: added to the edges' affinities, [n, n] (from, to); None for nothing.
      scales: the pyramid's (rows, columns).
      dtype: of the products, "float32", "bfloat16" or "float64".
      edge_blocks: into how many blocks U's columns are cut; 0 keeps T_out^T T_in whole and
        unturned.
    """
    wide = [np.asarray(array, np.float64) for array in (projection, *layers)]
    edges = np.asarray(transform_out, np.float64).T @ np.asarray(transform_in, np.float64)
    if edge_blocks:
        edges, turn = scipy.linalg.schur(edges)
        wide[0], wide[1] = wide[0] @ turn, turn.T @ wide[1]
    cuts = _block_cuts(edges, edge_blocks)
    blocks = [edges[:stop, start:stop] for start, stop in itertools.pairwise(cuts)]
    blocks[-1] = np.concatenate([blocks[-1], wide[1]], axis=1)
    score_dtype = jnp.promote_types(weight.dtype, jnp.float32)
    return FusedScorer(
        projection=jnp.asarray(wide[0], dtype),
        edges=tuple(jnp.asarray(block, dtype) for block in blocks),
        layers=tuple(jnp.asarray(layer, dtype) for layer in wide[2:]),
        weight=jnp.asarray(weight, score_dtype),
        bias=jnp.asarray(bias, score_dtype),
        edge_bias=None if edge_bias is None else jnp.asarray(edge_bias, score_dtype),
        scales=tuple(scales),
    )


def score_pairs(fused: FusedScorer, query: jax.Array, gallery: jax.Array) -> jax.Array:
    """Returns same-item logits of all pairs (Eq. 4 to 8), all at once.

    Lengths are divided out after the products: of nodes from the affinities and from the first
    layer's input, of the softmax from the layers' results. Each is a factor of a row or a column.

    Args:
      fused: of `fuse`.
      query: regions [q, r, c] of any floating dtype; differences are formed in float32 at least.
      gallery: regions [g, r, c], likewise.

    Returns:
      float32 at least, [q, g].
    """
    dtype = fused.projection.dtype
    query, gallery = (x.astype(jnp.promote_types(dtype, jnp.float32)) for x in (query, gallery))
    differences = region_differences(query, gallery, fused.scales).astype(dtype)
    projected = product("bnc,cd->bnd", differences, fused.projection)
    inverse = jax.lax.rsqrt(squared_length(projected) + _SQUARED_LENGTH_FLOOR)  # [b, n]
    projected = projected.astype(dtype)

    parts = [product("bnd,df->bnf", projected[..., : len(u)], u) for u in fused.edges]
    width = fused.layers[0].shape[0]
    hidden = parts[-1][..., -width:] * inverse[..., None]
    parts[-1] = parts[-1][..., :-width]
    turned = jnp.concatenate(parts, axis=-1).astype(dtype)
    affinity = product("bmf,bnf->bmn", turned, projected)
    affinity = affinity * inverse[:, :, None] * inverse[:, None, :]
    if fused.edge_bias is not None:
        affinity = affinity + fused.edge_bias
    weights = jnp.exp(affinity - jnp.max(affinity, axis=-1, keepdims=True))
    share = 1 / jnp.sum(weights, axis=-1, keepdims=True)  # [b, n, 1]
    weights = weights.astype(dtype)

    def spread(hidden: jax.Array) -> jax.Array:
        return jax.nn.relu(product("bmn,bnk->bmk", weights, hidden)) * share

    hidden = spread(hidden)
    for transform in fused.layers[:-1]:
        hidden = spread(product("bnk,kl->bnl", hidden.astype(dtype), transform))
    # Of the last layer only the global node's row is read.
    gathered = product("bn,bnk->bk", weights[:, 0], hidden) * share[:, 0]
    global_node = jax.nn.relu(product("bk,kl->bl", gathered.astype(dtype), fused.layers[-1]))
    logits = match_logit(global_node, fused.weight, fused.bias)
    return logits.reshape(query.shape[0], gallery.shape[0])


def choose_tile(numbers: int) -> int:
    """Returns how many gallery images a query is compared with at a time here; 0 for all.

    On CPUs so many that what lies between the products stays in cache; no accelerator has been
    measured.

    Args:
      numbers: that comparing two images makes, float32: of the graph |x - y|^2, nodes x channels.
    """
    if jax.default_backend() != "cpu":
        return 0
    return max(1, _TILE_BYTES // (numbers * 4))


def in_tiles(
    score: Callable[[jax.Array, jax.Array], jax.Array],
    query: jax.Array,
    gallery: jax.Array,
    tile: int,
) -> jax.Array:
    """Returns scores [q, g], of one query and about `tile` gallery images at a time.

    Args:
      score: regions [1, r, c] and [t, r, c] to scores [1, t].
      query: regions [q, r, c].
      gallery: regions [g, r, c].
      tile: gallery images at a time, at most; 0 for all, as where their number is left open
        (`jax.export`).
    """
    g, regions, channels = gallery.shape
    if not tile or jax.export.is_symbolic_dim(g):
        return jax.lax.map(lambda x: score(x[None], gallery)[0], query)
    tiles = -(-g // tile)
    tile = -(-g // tiles)  # tiles as full as their number allows
    padded = jnp.pad(gallery, ((0, tiles * tile - g), (0, 0), (0, 0)))
    padded = padded.reshape(tiles, tile, regions, channels)

    def one_query(x: jax.Array) -> jax.Array:
        return jax.lax.map(lambda y: score(x[None], y)[0], padded).reshape(-1)

    return jax.lax.map(one_query, query)[:, :g]


def _block_cuts(triangular: np.ndarray, blocks: int) -> list[int]:
    """Returns bounds of about equal column blocks that cut no 2x2 block on the diagonal."""
    d = len(triangular)
    cuts = [0]
    for number in range(1, blocks):
        cut = number * d // blocks
        if cut and triangular[cut, cut - 1]:
            cut += 1
        if cuts[-1] < cut < d:
            cuts.append(cut)
    return [*cuts, d]
