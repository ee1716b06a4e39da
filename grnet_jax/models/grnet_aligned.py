"""GRNet with nodes that keep how large a difference is, aligned cells and an embedding beside it.

Eq. 4 of GRNet divides a node by its length, so that regions that hardly differ have a node as long
as regions that differ in everything. To the graph's score two terms are added: the mean cosine of
the two maps' cells that are most alike, and an embedding's. Every part of this variant is a field,
off by default: with none it is GRNet.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from grnet_jax.errors import InputError
from grnet_jax.graph import choose_tile, in_tiles, pool_regions, region_counts
from grnet_jax.graph.reasoning import product
from grnet_jax.models import grnet
from grnet_jax.models.embedding import Pooling
from grnet_jax.models.feature_maps import map_fields
from grnet_jax.models.matcher import Features, inner_products, unit_vectors
from grnet_jax.models.region_matcher import regions_of
from input_pipeline import field

_SHARPNESS_INIT = 10.0  # how much more alike cells weigh, at the start


class CellAlignment(nn.Module):
    """Averages the cosines of two maps' cells, of pairs that are alike more than of others.

    Attributes:
      scale_init: where the factor on the mean starts.
      by_row: each cell of the query weighs the same, instead of each by how alike its pairs are.
    """

    scale_init: float
    by_row: bool = False

    @nn.compact
    def __call__(self, query: jax.Array, gallery: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Compares cells of unit length [q, n, c] and [g, n, c].

        Returns:
          Scores [q, g], and what each pair of cells weighs in the mean, [q, g, n, n], which sums to
          one; float32.
        """
        starts = {"scale": self.scale_init, "sharpness": _SHARPNESS_INIT}
        scale, sharpness = (
            self.param(name, nn.initializers.constant(start), ()) for name, start in starts.items()
        )
        bias = self.param("bias", nn.initializers.zeros, (query.shape[1], gallery.shape[1]))
        cosines = product("qac,gbc->qgab", query, gallery)
        logits = bias + sharpness * cosines
        if self.by_row:
            alpha = jax.nn.softmax(logits, axis=-1) / logits.shape[-2]
        else:
            alpha = jax.nn.softmax(logits, axis=(-2, -1))
        return scale * jnp.sum(alpha * cosines, axis=(-2, -1)), alpha


class AlignedGRNet(grnet.GRNet, kw_only=True):
    """GRNet whose features' regions are the pyramid's, then the map's cells where they count.

    Attributes:
      projected: feature maps to what is projected in the place of the regions; None for these.
      region_projection: module on the map that regions and cells are cut from, or None.
      unit_regions: regions are scaled to unit length.
      alignment: cells to a term of the score beside the graph's; None for none.
      embedding_score: factor on the embeddings' inner product, less a half, which is added to
        the score; 0 for none.
    """

    projected: nn.Module | None = None
    region_projection: nn.Module | None = None
    unit_regions: bool = False
    alignment: CellAlignment | None = None
    embedding_score: float = 0.0

    def pool(self, feature_map: jax.Array) -> Features:
        """Returns features of feature maps [n, h', w', c]."""
        x = feature_map if self.region_projection is None else self.region_projection(feature_map)
        regions = pool_regions(x, self.graph.scales)
        if self.unit_regions:
            regions = unit_vectors(regions)
        seen = regions if self.projected is None else self.projected(feature_map)
        if not self.embedding_score:
            seen = jax.lax.stop_gradient(seen)
        embedding = self.embedding_of(regions[:, 0], seen)
        if self.alignment is not None:
            cells = unit_vectors(x.reshape(x.shape[0], -1, x.shape[-1]))
            regions = jnp.concatenate([regions, cells], axis=1)
        return Features(embedding=embedding, regions=regions)

    def score(self, query: Features, gallery: Features) -> jax.Array:
        """Returns same-item logits float32 [q, g]."""
        return self._beside_embeddings(super().score(query, gallery), query, gallery)

    def score_regions(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns the score without embeddings, float32 [q, g], of [q, r, c] and [g, r, c]."""
        (query, query_cells), (gallery, gallery_cells) = map(self._split, (query, gallery))
        logits = super().score_regions(query, gallery)
        if self.alignment is None:
            return logits
        return logits + self.alignment(query_cells, gallery_cells)[0]

    def fuse(self, variables: Any, dtype: str) -> Any:
        """Returns the parameters as `score_fused` takes them, of the graph and of the alignment."""
        graph = super().fuse(variables, dtype)
        if self.alignment is None:
            return {"graph": graph}
        params = variables["params"]["alignment"]
        return {
            "graph": graph,
            "alignment": jax.tree.map(np.asarray, dict(params)),
            "dtype": np.zeros((), dtype or self.backbone.dtype),
        }

    def score_fused(self, fused: Any, query: Features, gallery: Features) -> jax.Array:
        """Returns same-item logits float32 [q, g]."""
        (x, x_cells), (y, y_cells) = (self._split(regions_of(one)) for one in (query, gallery))
        logits = self.graph.score_fused(fused["graph"], x, y)
        if self.alignment is not None:
            alignment = self.alignment

            def align(x: jax.Array, y: jax.Array) -> jax.Array:
                found: Any = alignment.apply({"params": fused["alignment"]}, x, y)
                return found[0]

            dtype = fused["dtype"].dtype
            tile = choose_tile(x_cells.shape[1] * y_cells.shape[1])
            logits += in_tiles(align, x_cells.astype(dtype), y_cells.astype(dtype), tile)
        return self._beside_embeddings(logits, query, gallery)

    def global_edges(self, query: Features, gallery: Features) -> tuple[jax.Array, jax.Array]:
        """Returns the global node's edge weights before and after reasoning, [q, g, n]."""
        return self.graph.global_edges(
            self._split(regions_of(query))[0], self._split(regions_of(gallery))[0]
        )

    def cell_weights(self, query: Features, gallery: Features) -> jax.Array:
        """Returns what each pair of cells weighs in the alignment, float32 [q, g, n, n]."""
        if self.alignment is None:
            raise InputError("model.direct_scale_init=0: no cells are aligned")
        return self.alignment(
            self._split(regions_of(query))[1], self._split(regions_of(gallery))[1]
        )[1]

    def _split(self, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the pyramid's regions and the map's cells."""
        count = sum(region_counts(self.graph.scales))
        return regions[:, :count], regions[:, count:]

    def _beside_embeddings(
        self, logits: jax.Array, query: Features, gallery: Features
    ) -> jax.Array:
        """Returns logits [q, g] with what the embeddings add to them."""
        if not self.embedding_score:
            return logits
        return logits + self.embedding_score * (inner_products(query, gallery) - 0.5)


class Config(grnet.GraphConfig):
    """GRNet with parts that are not the paper's."""

    name: Literal["grnet_aligned"] = "grnet_aligned"
    unit_regions: bool = field(False, "regions of unit length", "parameters", "features", "scores")
    raw_scale: float = field(
        0.0,
        "nodes are P|x - y|^2 times this and the number of channels, so that they keep how large "
        "a difference is; edges come from them at unit length; 0: nodes of unit length",
        "parameters",
        "scores",
        ge=0,
    )
    node_positions: bool = field(
        False,
        "a learned vector for each pair of regions, added to its node",
        "parameters",
        "scores",
    )
    edge_scale_init: float = field(
        0.0,
        "start of a learned factor on the edges' affinities; 0: none",
        "parameters",
        "scores",
    )
    region_channels: int = field(
        0,
        "regions and cells are those of the map's channels mapped linearly to so many; "
        "0: as they are",
        "parameters",
        "features",
        "scores",
        ge=0,
    )
    direct_scale_init: float = field(
        0.0,
        "start of the factor on a term beside the graph's score, the mean cosine of the two maps' "
        "cells that are most alike; 0: none",
        "parameters",
        "features",
        "scores",
        ge=0,
    )
    direct_by_row: bool = field(
        False,
        "each of the query's cells weighs the same in that mean; else cells of plain background, "
        "alike in all of a shop's photos, weigh most",
        "parameters",
        "scores",
    )
    grid_cells: int = field(
        0,
        "the embedding projects the averages of so many cells on each side of the "
        "map instead, as model.pooling=grid of model.name=embedding; 0: the regions",
        "parameters",
        "features",
        ge=0,
    )
    embedding_score: float = field(
        0.0,
        "factor on the embeddings' inner product, less a half, added to the score; the loss of "
        "embeddings then trains the map under them, too; 0: none",
        "parameters",
        "scores",
        ge=0,
    )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.grid_cells and not self.embedding_dim:
            raise ValueError("grid_cells: needs embedding_dim above 0, what the grid is mapped to")
        return self


def build(config: Config) -> AlignedGRNet:
    """Builds the matcher of this section."""
    paper = grnet.build(config)
    graph = paper.graph.clone(
        node_positions=config.node_positions,
        edge_scale_init=config.edge_scale_init,
        raw_scale=config.raw_scale,
    )
    channels, scale, dtype = config.region_channels, config.direct_scale_init, config.dtype
    return AlignedGRNet(
        **map_fields(config),
        graph=graph,
        projection=paper.projection,
        projected=Pooling("grid", config.grid_cells) if config.grid_cells else None,
        region_projection=nn.Dense(channels, use_bias=False, dtype=jnp.dtype(dtype))
        if channels
        else None,
        unit_regions=config.unit_regions,
        alignment=CellAlignment(scale, config.direct_by_row) if scale else None,
        embedding_score=config.embedding_score,
    )
