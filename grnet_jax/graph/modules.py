"""The module that owns the graph's parameters."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from grnet_jax.errors import InputError
from grnet_jax.graph import reasoning, scoring
from grnet_jax.graph.pyramid import PAPER_SCALES, node_count

_he = nn.initializers.he_normal()


class _Parameters(NamedTuple):
    """P transposed; T_out, T_in of each edge computation; W transposed of each layer; score.

    Positions, of `reasoning.similarity_nodes`, are not the paper's.
    """

    projection: jax.Array
    transforms_out: list[jax.Array]
    transforms_in: list[jax.Array]
    edge_bias: jax.Array | np.ndarray | None
    layers: list[jax.Array]
    score_weight: jax.Array
    score_bias: jax.Array
    positions: jax.Array | None


class SimilarityGraph(nn.Module):
    """Scores every query against every gallery image by reasoning over region pairs.

    Attributes:
      scales: the pyramid's (rows, columns), (1, 1) first.
      node_dim: D, dimensions of a similarity node.
      reasoning_dim: C', dimensions inside the reasoning layers.
      layers: T, number of reasoning layers; 0 scores the global similarity alone.
      intra_scale: edges between nodes of one scale.
      inter_scale: edges between nodes of different local scales.
      recompute_edges: every layer computes its edges from its own input, with other
        transforms, instead of keeping those of the initial similarities.
      edge_scale_init: where a learned factor on the edges' affinities starts; 0 for none, as
        in the paper.
      node_positions: nodes carry a learned embedding of which regions they compare.
      raw_scale: of `reasoning.similarity_nodes`, whose edges come from them at unit length; 0
        for nodes of unit length, as in the paper.
      gallery_chunk: gallery images compared at once, where memory is short; 0 for all.
      score_bias_init: where the score's bias starts.
    """

    scales: tuple[tuple[int, int], ...] = PAPER_SCALES
    node_dim: int = 512
    reasoning_dim: int = 128
    layers: int = 3
    intra_scale: bool = True
    inter_scale: bool = True
    recompute_edges: bool = False
    edge_scale_init: float = 0.0
    node_positions: bool = False
    raw_scale: float = 0.0
    score_bias_init: float = 0.0
    gallery_chunk: int = 0

    # Parameters that the fused scorer knows, beside the layers'; a subclass adds its own.
    fused_parameters = frozenset(
        ("projection", "edge_out1", "edge_in1", "edge_scale1", "score_weight", "score_bias")
    )

    def __call__(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns same-item logits float32 [q, g] of regions [q, r, c] and [g, r, c]."""
        params = self._parameters(query.shape[-1])

        def score(gallery: jax.Array) -> jax.Array:
            global_node = reasoning.reason(
                self._nodes(query, gallery, params),
                params.transforms_out,
                params.transforms_in,
                params.layers,
                params.edge_bias,
                unit_edges=bool(self.raw_scale),
            )
            logits = reasoning.match_logit(global_node, params.score_weight, params.score_bias)
            return logits.reshape(query.shape[0], gallery.shape[0])

        return in_chunks(score, gallery, self.gallery_chunk)

    def global_edges(self, query: jax.Array, gallery: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns weights of the edges into the global node: see `reasoning.global_edges`.

        Returns:
          Before and after reasoning, float32 [q, g, n] each.

        Raises:
          InputError: without layers there are no edges.
        """
        if not self.layers:
            raise InputError("model.layers=0: a graph without reasoning has no edges")
        params = self._parameters(query.shape[-1])
        edges = reasoning.global_edges(
            self._nodes(query, gallery, params),
            params.transforms_out,
            params.transforms_in,
            params.layers,
            params.edge_bias,
            unit_edges=bool(self.raw_scale),
        )
        before, after = (w.reshape(query.shape[0], gallery.shape[0], -1) for w in edges)
        return before, after

    def fuse(
        self,
        params: Mapping[str, Any],
        dtype: str | np.dtype,
        edge_blocks: int = scoring.EDGE_BLOCKS,
    ) -> Any:
        """Returns what `score_fused` takes; computed once a model, on the host.

        A `FusedScorer` where there are two layers or more, on the paper's nodes and with edges that
        stay; else the parameters as they are. These too where a parameter is new to the fused
        scorer, or where it scores a few random pairs otherwise than this module does.

        Args:
          params: of this module.
          dtype: that products are made in.
          edge_blocks: of `scoring.fuse`.
        """
        plain: Any = {
            "params": jax.tree.map(np.asarray, dict(params)),
            "dtype": np.zeros((), dtype),
        }
        layers = [f"layer{number + 1}" for number in range(self.layers)]
        if self.layers < 2 or self.recompute_edges or self.node_positions or self.raw_scale:
            return plain
        if unknown := sorted(set(params) - self.fused_parameters - set(layers)):
            logging.warning("Scored in the plain way, for the fast one lacks %s.", unknown)
            return plain
        made: Any = self.clone(parent=None).apply(
            {"params": plain["params"]}, len(params["projection"]), method="_parameters"
        )
        fused = scoring.fuse(
            made.projection,
            made.transforms_out[0],
            made.transforms_in[0],
            made.layers,
            made.score_weight,
            made.score_bias,
            edge_bias=made.edge_bias,
            scales=self.scales,
            dtype=dtype,
            edge_blocks=edge_blocks,
        )
        difference, allowed = self._difference(fused, plain)
        if difference > allowed:
            logging.warning("Scored in the plain way: the fast one differs by %.2g.", difference)
            return plain
        return fused

    def _difference(self, fused: scoring.FusedScorer, plain: Any) -> tuple[float, float]:
        """Returns by how much logits of random pairs differ, and by how much they may."""
        shape = (5, sum(rows * columns for rows, columns in self.scales), fused.projection.shape[0])
        regions = np.random.default_rng(0).gamma(1.0, size=shape).astype(np.float32)
        query, gallery = jnp.asarray(regions[:2]), jnp.asarray(regions[2:])
        wide = plain["dtype"].dtype
        both = _both_ways(self.clone(gallery_chunk=0, parent=None))
        ours, theirs = both(fused, plain["params"], query, gallery)
        coarse = float(jnp.finfo(wide).eps)
        largest = max(float(jnp.abs(theirs).max()), 1.0)
        return float(jnp.abs(ours - theirs).max()), max(1e-3, 8 * coarse) * largest

    def score_fused(
        self, fused: Any, query: jax.Array, gallery: jax.Array, tile: int = 0
    ) -> jax.Array:
        """Returns what calling the module does, computed a few pairs at a time, without gradients.

        Args:
          fused: of `fuse`.
          query: regions [q, r, c].
          gallery: regions [g, r, c], of any floating dtype, not always the queries'.
          tile: gallery images that a query is compared with at once; 0 as many as suit the device.
        """

        def score(query: jax.Array, gallery: jax.Array) -> jax.Array:
            if isinstance(fused, scoring.FusedScorer):
                return scoring.score_pairs(fused, query, gallery)
            query, gallery = (x.astype(fused["dtype"].dtype) for x in (query, gallery))
            logits: Any = self.apply({"params": fused["params"]}, query, gallery)
            return logits

        tile = tile or scoring.choose_tile(node_count(self._used_scales) * query.shape[-1])
        return scoring.in_tiles(score, query, gallery, tile)

    @property
    def _used_scales(self) -> tuple[tuple[int, int], ...]:
        return self.scales if self.layers else self.scales[:1]

    def edge_bias(self) -> jax.Array | np.ndarray | None:
        """Returns what is added to the edges' affinities, [n, n] (from, to); None for nothing.

        A subclass may add what it learns, as `self.param` gives it.
        """
        return reasoning.edge_bias(
            self.scales, intra_scale=self.intra_scale, inter_scale=self.inter_scale
        )

    def _nodes(self, query: jax.Array, gallery: jax.Array, params: _Parameters) -> jax.Array:
        """Returns all nodes of all pairs, [q * g, n, d], of regions [q, r, c] and [g, r, c]."""
        return reasoning.similarity_nodes(
            reasoning.region_differences(query, gallery, self._used_scales),
            params.projection,
            raw_scale=self.raw_scale,
            positions=params.positions,
        )

    @nn.compact
    def _parameters(self, channels: int) -> _Parameters:
        """Makes all parameters, for regions of so many channels."""
        projection = self.param("projection", _he, (channels, self.node_dim))
        transforms_out, transforms_in, edge_bias, layers = self._reasoning_parameters()
        last_dim = self.reasoning_dim if self.layers else self.node_dim
        weight = self.param("score_weight", _score_init, (last_dim,))
        bias = self.param("score_bias", nn.initializers.constant(self.score_bias_init), ())
        positions = None
        if self.node_positions:
            shape = (node_count(self._used_scales), self.node_dim)
            positions = self.param("positions", nn.initializers.normal(0.02), shape)
        return _Parameters(
            projection,
            transforms_out,
            transforms_in,
            edge_bias,
            layers,
            weight,
            bias,
            positions,
        )

    def _reasoning_parameters(self) -> tuple[Any, ...]:
        """Makes what `_Parameters` has between the projection and the score."""
        transforms_out, transforms_in, layers = [], [], []
        for number in range(self.layers):
            width = self.node_dim if number == 0 else self.reasoning_dim
            if number == 0 or self.recompute_edges:
                square = (width, width)
                out = self.param(f"edge_out{number + 1}", _he, square)
                if self.edge_scale_init:
                    start = nn.initializers.constant(self.edge_scale_init)
                    out = out * self.param(f"edge_scale{number + 1}", start, ())
                transforms_out.append(out)
                transforms_in.append(self.param(f"edge_in{number + 1}", _he, square))
            layers.append(self.param(f"layer{number + 1}", _he, (width, self.reasoning_dim)))
        return transforms_out, transforms_in, self.edge_bias() if layers else None, layers


@functools.cache
def _both_ways(graph: SimilarityGraph) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns what scores regions by a fused scorer and by the module; compiled once a graph."""

    def score(fused: scoring.FusedScorer, params: Any, query: jax.Array, gallery: jax.Array) -> Any:
        wide = fused.projection.dtype
        plain = graph.apply({"params": params}, query.astype(wide), gallery.astype(wide))
        return scoring.score_pairs(fused, query, gallery), plain

    return jax.jit(score)


def in_chunks(score: Callable[[jax.Array], jax.Array], gallery: jax.Array, chunk: int) -> jax.Array:
    """Returns scores [q, g], computed by `chunk` gallery images, holding one chunk's comparisons.

    The gradient computes each chunk's comparisons once more instead of keeping them. By the
    gallery and not by the queries, because in training the queries are shared by the devices.

    Args:
      score: regions [chunk, r, c] to scores [q, chunk].
      gallery: regions [g, r, c].
      chunk: gallery images at a time; 0 for all.
    """
    g = gallery.shape[0]
    if not 0 < chunk < g:
        return score(gallery)
    chunks = -(-g // chunk)
    padded = jnp.pad(gallery, ((0, chunks * chunk - g), (0, 0), (0, 0)))
    logits = jax.lax.map(
        jax.checkpoint(score), padded.reshape(chunks, chunk, *gallery.shape[1:])
    )  # [chunks, q, chunk]
    return jnp.moveaxis(logits, 0, 1).reshape(-1, chunks * chunk)[:, :g]


def _score_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Draws He's initialization for one output of `shape[0]` inputs."""
    return jax.random.normal(key, shape, dtype) * jnp.sqrt(2.0 / shape[0]).astype(dtype)
