"""GRNet's similarity graph as pure functions: nodes, edges, reasoning, score.

Equation numbers are those of Kuang et al., "Fashion Retrieval via Graph Reasoning Networks on
a Similarity Pyramid", ICCV 2019. Shapes: b pairs, n nodes, c region channels, d node
dimensions (D in the paper), k reasoning dimensions (C' in the paper).

Parameters are float32. Matrix products run in the dtype of the regions; sums of squares,
softmax and the score are float32 whatever that is.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.graph.pyramid import Scales, node_count, node_scales, region_counts

# Squared length below which a node counts as "no difference": far under what two images that
# differ by a thousandth produce, and large enough that the gradient of its inverse root is finite
# in float32.
_SQUARED_LENGTH_FLOOR = 1e-24


def region_differences(query: jax.Array, gallery: jax.Array, scales: Scales) -> jax.Array:
    """Returns |x - y|^2 of all region pairs of all image pairs: the inside of Eq. 4.

    The difference is formed before squaring: expanding the square cancels on images that are
    nearly equal. Scale by scale and by broadcasting, because the gradient of a gather is a
    slow scatter on several backends.

    Args:
      query: regions [q, regions, c].
      gallery: regions [g, regions, c].
      scales: the pyramid's (rows, columns).

    Returns:
      [q * g, n, c]; row i * g + j belongs to query i and gallery image j.
    """
    q, g, c = query.shape[0], gallery.shape[0], query.shape[-1]
    blocks = []
    start = 0
    for count in region_counts(scales):
        x = query[:, None, start : start + count, None, :]  # [q, 1, r, 1, c]
        y = gallery[None, :, None, start : start + count, :]  # [1, g, 1, r, c]
        blocks.append(jnp.square(x - y).reshape(q * g, count * count, c))
        start += count
    return jnp.concatenate(blocks, axis=1)


def similarity_nodes(
    differences: jax.Array,
    projection: jax.Array,
    *,
    raw_scale: float = 0.0,
    positions: jax.Array | None = None,
) -> jax.Array:
    """Returns P|x - y|^2 / ||P|x - y|^2||_2 (Eq. 4).

    Args:
      differences: |x - y|^2, [b, n, c].
      projection: P transposed, [c, d], the same for every scale.
      raw_scale: multiply by this and by c instead of dividing by the length, so that nodes keep
        how large the difference is; 0 divides. Not in the paper.
      positions: added to the nodes, [n, d]; None for the paper's.

    Returns:
      Unit vectors [b, n, d]; zero where the two regions are identical.
    """
    projected = product("bnc,cd->bnd", differences, projection)
    if raw_scale:
        nodes = projected * (raw_scale * differences.shape[-1])
    else:
        nodes = to_unit_length(projected)
    if positions is not None:
        nodes = nodes + positions
    return nodes.astype(differences.dtype)


def to_unit_length(x: jax.Array) -> jax.Array:
    """Scales vectors along the last axis to length 1, in float32 at least; zeros stay."""
    x = x.astype(accumulation_dtype(x))
    return x * jax.lax.rsqrt(squared_length(x)[..., None] + _SQUARED_LENGTH_FLOOR)


def squared_length(projected: jax.Array) -> jax.Array:
    """Returns ||z||_2^2 along the last axis."""
    return jnp.sum(jnp.square(projected), axis=-1)


def edge_bias(scales: Scales, *, intra_scale: bool, inter_scale: bool) -> np.ndarray | None:
    """Returns what is added to the edges' affinities, float32 [n, n] (from, to): -inf for no edge.

    None where the graph has all edges.

    Edges to and from the global node, and from each node to itself, always stay
    (Table 5, rows 4 to 7; that the self edges stay in rows 4 and 5 is our reading).

    Args:
      scales: the pyramid's (rows, columns), (1, 1) first.
      intra_scale: whether different nodes of one local scale are connected.
      inter_scale: whether nodes of different local scales are connected.
    """
    if intra_scale and inter_scale:
        return None
    scale = node_scales(scales)
    same_scale = scale[:, None] == scale[None, :]
    mask = np.where(same_scale, intra_scale, inter_scale)
    mask[0, :] = mask[:, 0] = True
    mask |= np.eye(node_count(scales), dtype=bool)
    return np.where(mask, np.float32(0), np.float32(-np.inf))


def edge_weights(
    sources: jax.Array,
    nodes: jax.Array,
    transform_out: jax.Array,
    transform_in: jax.Array,
    bias: jax.Array | np.ndarray | None = None,
    *,
    unit_edges: bool = False,
) -> jax.Array:
    """Returns the softmax over s_b of (T_out s_a)^T (T_in s_b) (Eq. 5).

    The two transforms enter only through T_out^T T_in, which is multiplied out first: one
    matrix product a node instead of two.

    Args:
      sources: the nodes s_a whose rows are needed, [b, m, d].
      nodes: all nodes s_b, [b, n, d].
      transform_out: T_out, [d, d], applied as T_out s.
      transform_in: T_in, [d, d].
      bias: added before the softmax, [m, n], of `edge_bias`; None for nothing.
      unit_edges: scale all nodes to unit length first. Not in the paper.

    Returns:
      float32 [b, m, n], each row summing to one; zero where the bias is -inf.
    """
    if unit_edges:
        sources, nodes = (to_unit_length(x).astype(nodes.dtype) for x in (sources, nodes))
    fused = jnp.einsum("ed,ef->df", transform_out, transform_in)  # T_out^T T_in, [d, d]
    turned = product("bmd,df->bmf", sources, fused).astype(nodes.dtype)
    affinity = product("bmf,bnf->bmn", turned, nodes)
    if bias is not None:
        affinity = affinity + bias
    return jax.nn.softmax(affinity, axis=-1)


def propagate(weights: jax.Array, nodes: jax.Array, transform: jax.Array) -> jax.Array:
    """Returns ReLU(W (w_p h)): one layer of reasoning (Eq. 6 and 8).

    Args:
      weights: w_p, [b, m, n]: all nodes' rows, or only those needed.
      nodes: h, [b, n, d].
      transform: W transposed, [d, k], applied before w_p where that is the smaller product.

    Returns:
      [b, m, k].
    """
    weights = weights.astype(nodes.dtype)
    if weights.shape[-2] < nodes.shape[-2]:
        gathered = product("bmn,bnd->bmd", weights, nodes).astype(nodes.dtype)
        hidden = product("bmd,dk->bmk", gathered, transform)
    else:
        turned = product("bnd,dk->bnk", nodes, transform).astype(nodes.dtype)
        hidden = product("bmn,bnk->bmk", weights, turned)
    return jax.nn.relu(hidden).astype(nodes.dtype)


def reason(
    nodes: jax.Array,
    transforms_out: Sequence[jax.Array],
    transforms_in: Sequence[jax.Array],
    layers: Sequence[jax.Array],
    bias: jax.Array | np.ndarray | None = None,
    *,
    unit_edges: bool = False,
) -> jax.Array:
    """Applies all reasoning layers (Eq. 5 to 8), as far as the global node's result needs them.

    Args:
      nodes: similarities s, [b, n, d].
      transforms_out: T_out: one, [d, d], for edges that come from the initial similarities
        and stay (as Eq. 6 and 7 are written), or one a layer for edges computed anew from
        each layer's input.
      transforms_in: T_in, likewise.
      layers: W transposed of each layer, [d, k], then [k, k].
      bias: added to the edges' affinities, [n, n], of `edge_bias`; None for nothing.
      unit_edges: of `edge_weights`.

    Returns:
      h of the global node after the last layer, [b, k]; without layers its similarity, [b, d].
    """
    last = len(layers) - 1
    recompute = len(transforms_out) > 1
    weights = None
    hidden = nodes
    for number, transform in enumerate(layers):
        if weights is None or recompute:
            # Where no later layer needs the other nodes, one row of edges is enough.
            rows = slice(0, 1) if number == last else slice(None)
            weights = edge_weights(
                hidden[:, rows],
                hidden,
                transforms_out[number if recompute else 0],
                transforms_in[number if recompute else 0],
                None if bias is None else bias[rows],
                unit_edges=unit_edges,
            )
        of_rows = weights[:, :1] if number == last else weights
        hidden = propagate(of_rows, hidden, transform)
    return hidden[:, 0]


def global_edges(
    nodes: jax.Array,
    transforms_out: Sequence[jax.Array],
    transforms_in: Sequence[jax.Array],
    layers: Sequence[jax.Array],
    bias: jax.Array | np.ndarray | None = None,
    *,
    unit_edges: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Returns how much of each node flows into the global one, before and after reasoning (Fig. 5).

    Before reasoning: the global node's row of w_p, the edges of the initial similarities. After
    it: where every layer computes its edges anew, the global node's row in the last layer; where
    they stay, its row of w_p^T for T layers, which is the flow over all paths of T edges if W and
    ReLU are left out.

    Args:
      nodes: similarities s, [b, n, d].
      transforms_out: T_out, as in `reason`.
      transforms_in: T_in, likewise.
      layers: W transposed of each of the T > 0 layers.
      bias: added to the edges' affinities, [n, n], of `edge_bias`; None for nothing.
      unit_edges: of `edge_weights`.

    Returns:
      Two of float32 [b, n], each row summing to one.
    """
    weights_of = functools.partial(edge_weights, bias=bias, unit_edges=unit_edges)
    weights = weights_of(nodes, nodes, transforms_out[0], transforms_in[0])
    before = after = weights[:, 0]
    if len(transforms_out) == 1:
        for _ in layers[1:]:
            after = product("bm,bmn->bn", after, weights)
        return before, after
    hidden = nodes
    for number, transform in enumerate(layers[:-1]):
        hidden = propagate(weights, hidden, transform)
        transforms = transforms_out[number + 1], transforms_in[number + 1]
        weights = weights_of(hidden, hidden, *transforms)
    return before, weights[:, 0]


def match_logit(global_node: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns the score before its sigmoid: how alike the images of each pair are (Section 3.2).

    Args:
      global_node: h of the global node, [b, k].
      weight: [k].
      bias: a number.

    Returns:
      float32 [b]; its sigmoid is the probability of "same item".
    """
    return jnp.einsum("bk,k->b", global_node.astype(accumulation_dtype(global_node)), weight) + bias


def product(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """Computes an einsum in the left operand's dtype; sums and returns float32 at least."""
    return jnp.einsum(
        subscripts, left, right.astype(left.dtype), preferred_element_type=accumulation_dtype(left)
    )


def accumulation_dtype(x: jax.Array) -> jnp.dtype:
    """Returns the dtype that reductions of x are made in."""
    return jnp.promote_types(x.dtype, jnp.float32)
