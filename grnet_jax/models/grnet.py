"""GRNet (Kuang et al., ICCV 2019): region pyramid, similarity graph, one score.

With scales ((1, 1),) and no reasoning layers it is the paper's global baseline (Table 5,
row 1): the projected difference of the two images' global features, and one linear unit.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.graph import PAPER_SCALES, SimilarityGraph, pool_regions
from grnet_jax.models.config import NetworkConfig, Scales
from grnet_jax.models.feature_maps import map_fields
from grnet_jax.models.matcher import Features, unit_vectors
from grnet_jax.models.region_matcher import RegionMatcher, regions_of
from input_pipeline import field


class GRNet(RegionMatcher, kw_only=True):
    """Compares max-pooled regions by a graph of their similarities.

    Attributes:
      graph: regions to scores.
      projection: regions side by side, [n, r * c], to what the embedding is the direction of. It
        learns from the regions as they are: its gradient ends there. None for the whole image's
        region itself, through which a loss of embeddings reaches the backbone.
    """

    graph: SimilarityGraph
    projection: nn.Module | None = None

    def pool(self, feature_map: jax.Array) -> Features:
        """Returns features of feature maps [n, h', w', c]."""
        regions = pool_regions(feature_map, self.graph.scales)
        # So that training embeddings leaves alone what the graph's score learns.
        seen = jax.lax.stop_gradient(regions)
        return Features(embedding=self.embedding_of(regions[:, 0], seen), regions=regions)

    def embedding_of(self, whole: jax.Array, seen: jax.Array) -> jax.Array:
        """Returns unit vectors: of the whole image's region [n, c], or what is seen projected."""
        if self.projection is None:
            return unit_vectors(whole.astype(jnp.float32))
        return unit_vectors(self.projection(seen.reshape(seen.shape[0], -1).astype(jnp.float32)))

    def score_regions(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns same-item logits float32 [q, g] of regions [q, r, c] and [g, r, c]."""
        return self.graph(query, gallery)

    def fuse(self, variables: Any, dtype: str) -> Any:
        """Returns the graph's parameters as `score_fused` takes them."""
        # Squares of small differences leave float16's range: it scores in float32.
        wide = jnp.promote_types(self.backbone.dtype, jnp.bfloat16)
        return self.graph.fuse(variables["params"]["graph"], dtype or wide)

    def score_fused(self, fused: Any, query: Features, gallery: Features) -> jax.Array:
        """Returns same-item logits float32 [q, g]."""
        return self.graph.score_fused(fused, regions_of(query), regions_of(gallery))

    def global_edges(self, query: Features, gallery: Features) -> tuple[jax.Array, jax.Array]:
        """Returns the global node's edge weights before and after reasoning, [q, g, n]."""
        return self.graph.global_edges(regions_of(query), regions_of(gallery))


class GraphConfig(NetworkConfig):
    """A matcher with GRNet's graph, at the paper's values."""

    scales: Scales = field(
        PAPER_SCALES,
        "the pyramid, (rows, columns); (1, 1) first",
        "parameters",
        "features",
        "scores",
    )
    embedding_dim: int = field(
        0,
        "dimensions of the embedding, a projection of all regions that loss.embedding_weight trains"
        " and that leaves the regions as they are; 0: the whole image's region itself",
        "parameters",
        ge=0,
    )
    node_dim: int = field(512, "D, of a similarity node", "parameters", "scores", ge=1)
    reasoning_dim: int = field(128, "C', inside the reasoning", "parameters", "scores", ge=1)
    layers: int = field(
        3, "T, of reasoning; 0: the global similarity alone", "parameters", "scores", ge=0
    )
    intra_scale: bool = field(True, "edges within a scale", "parameters", "scores")
    inter_scale: bool = field(True, "edges between local scales", "parameters", "scores")
    recompute_edges: bool = field(
        False, "edges anew from every layer's input", "parameters", "scores"
    )
    score_bias_init: float = field(
        0.0,
        "start of the score's bias (paper: 0); -log 31 spares the first steps from learning how "
        "rare a match is among 32 shop images",
        "parameters",
    )
    gallery_chunk: int = field(
        0,
        "shop images compared at once in training, whose nodes are computed twice instead of kept; "
        "0: all",
        "parameters",
        ge=0,
    )


class Config(GraphConfig):
    """GRNet, at the paper's values."""

    name: Literal["grnet"] = "grnet"


def build(config: GraphConfig, graph: type[SimilarityGraph] = SimilarityGraph) -> GRNet:
    """Builds the matcher of this section, on a graph of this class."""
    return GRNet(
        **map_fields(config),
        graph=graph(
            scales=config.scales,
            node_dim=config.node_dim,
            reasoning_dim=config.reasoning_dim,
            layers=config.layers,
            intra_scale=config.intra_scale,
            inter_scale=config.inter_scale,
            recompute_edges=config.recompute_edges,
            score_bias_init=config.score_bias_init,
            gallery_chunk=config.gallery_chunk,
        ),
        projection=nn.Dense(config.embedding_dim, use_bias=False) if config.embedding_dim else None,
    )
