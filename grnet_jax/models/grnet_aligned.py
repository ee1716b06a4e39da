"""GRNet with nodes that keep how large a difference is, and cosines beside the graph's score.

Eq. 4 of GRNet divides a node by its length, so that regions that hardly differ have a node as long
as regions that differ in everything. Every part of this variant is a field, off by default: with
none it is GRNet.
"""

from typing import Literal

import pydantic

from grnet_jax.models import grnet
from grnet_jax.models.embedding import Pooling
from input_pipeline import field


class Config(grnet.GraphConfig):
    """GRNet with parts that are not the paper's."""

    name: Literal["grnet_aligned"] = "grnet_aligned"
    unit_regions: bool = field(False, "regions of unit length", "parameters", "features", "scores")
    raw_scale: float = field(
        0.0,
        "nodes are P|x - y|^2 times this and the number of channels, so that they "
        "keep how large a difference is; 0: of unit length",
        "parameters",
        "scores",
        ge=0,
    )
    unit_edges: bool = field(
        False,
        "edges from nodes scaled to unit length, whatever the nodes are",
        "parameters",
        "scores",
    )
    norm_feature: bool = field(False, "nodes carry the difference's length", "parameters", "scores")
    edge_scale_init: float = field(
        0.0,
        "start of a learned factor on the edges' affinities; 0: none",
        "parameters",
        "scores",
    )
    direct_scale_init: float = field(
        0.0,
        "start of the factor on a term beside the graph's score, the mean cosine "
        "of the region pairs that are most alike; needs unit_regions; 0: none",
        "parameters",
        "scores",
        ge=0,
    )
    direct_sharpness_init: float = field(
        5.0,
        "start of how much more alike pairs weigh in that mean; 0: all alike",
        "parameters",
        ge=0,
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
        "factor on the embeddings' inner product, added to the graph's score, "
        "whose loss then trains them and the map under them; 0: the graph's score alone",
        "parameters",
        "scores",
        ge=0,
    )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.direct_scale_init and not self.unit_regions:
            raise ValueError("direct_scale_init: needs unit_regions, whose distances are cosines")
        if self.grid_cells and not self.embedding_dim:
            raise ValueError("grid_cells: needs embedding_dim above 0, what the grid is mapped to")
        if self.raw_scale and self.norm_feature:
            raise ValueError("raw_scale, norm_feature: raw nodes have their length; expected one")
        return self


def build(config: Config) -> grnet.GRNet:
    """Builds the matcher of this section."""
    paper = grnet.build(config)
    return paper.clone(
        graph=paper.graph.clone(
            norm_feature=config.norm_feature,
            edge_scale_init=config.edge_scale_init,
            raw_scale=config.raw_scale,
            unit_edges=config.unit_edges,
            direct_scale_init=config.direct_scale_init,
            direct_sharpness_init=config.direct_sharpness_init,
        ),
        projected=Pooling("grid", config.grid_cells) if config.grid_cells else None,
        unit_regions=config.unit_regions,
        embedding_score=config.embedding_score,
    )
