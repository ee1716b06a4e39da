"""GRNet (Kuang et al., ICCV 2019): region pyramid, similarity graph, one score.

With scales ((1, 1),) and no reasoning layers it is the paper's global baseline (Table 5,
row 1): the projected difference of the two photos' global features, and one linear unit.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.errors import check_at_least
from grnet_jax.graph import SimilarityGraph, check_scales, pool_regions
from grnet_jax.models.mapped import MapMatcher, map_fields, regions_of
from grnet_jax.models.matcher import Features, Scoring, unit_vectors


class GRNet(MapMatcher, kw_only=True):
    """A matcher whose features are max-pooled regions and whose score is the graph's.

    Attributes:
      graph: regions to scores.
      projection: regions side by side, [n, r * c], to what the descriptor is the direction of. It
        learns from the regions as they are: its gradient ends there. None for the whole photo's
        region itself, through which a loss of descriptors reaches the backbone.
    """

    graph: SimilarityGraph
    projection: nn.Module | None = None

    def pool(self, feature_map: jax.Array) -> Features:
        """Features of feature maps [n, h', w', c]."""
        regions = pool_regions(feature_map, self.graph.scales)
        described = regions[:, 0].astype(jnp.float32)
        if self.projection is not None:
            # So that training descriptors leaves alone what the graph's score learns.
            fixed = jax.lax.stop_gradient(regions)
            described = self.projection(fixed.reshape(len(fixed), -1).astype(jnp.float32))
        return Features(descriptor=unit_vectors(described), regions=regions)

    def score_regions(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Same-item logits float32 [q, g] of regions [q, r, c] and [g, r, c]."""
        return self.graph(query, gallery)

    def prepare(self, variables: Any, scoring: Scoring) -> Any:
        """The graph's parameters as `score_prepared` takes them."""
        # Squares of small differences leave float16's range: it scores in float32.
        dtype = scoring.dtype or jnp.promote_types(self.backbone.dtype, jnp.bfloat16)
        return self.graph.prepare(variables["params"]["graph"], dtype)

    def score_prepared(
        self, prepared: Any, query: Features, gallery: Features, scoring: Scoring
    ) -> jax.Array:
        """Same-item logits float32 [q, g]."""
        return self.graph.score_prepared(
            prepared, regions_of(query), regions_of(gallery), scoring.tile
        )

    def global_edges(self, query: Features, gallery: Features) -> tuple[jax.Array, jax.Array]:
        """Weights of the edges into the global node, before and after reasoning, [q, g, n]."""
        return self.graph.global_edges(regions_of(query), regions_of(gallery))


def build(model: Any) -> GRNet:
    """The matcher that `config.model` describes.

    Raises:
      InputError: naming the field that cannot be.
    """
    for field, least in (
        ("descriptor_dim", 0),
        ("layers", 0),
        ("node_dim", 1),
        ("reasoning_dim", 1),
        ("gallery_chunk", 0),
    ):
        check_at_least(f"model.{field}", model[field], least)
    return GRNet(
        **map_fields(model),
        graph=SimilarityGraph(
            scales=check_scales(model.scales),
            node_dim=model.node_dim,
            reasoning_dim=model.reasoning_dim,
            layers=model.layers,
            intra_scale=model.intra_scale,
            inter_scale=model.inter_scale,
            recompute_edges=model.recompute_edges,
            norm_feature=model.norm_feature,
            edge_scale_init=model.edge_scale_init,
            score_bias_init=model.score_bias_init,
            gallery_chunk=model.gallery_chunk,
        ),
        projection=nn.Dense(model.descriptor_dim, use_bias=False) if model.descriptor_dim else None,
    )
