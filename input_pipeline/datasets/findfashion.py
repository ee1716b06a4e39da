"""FindFashion, as a manifest whose photos are annotated by view, occlusion and cropping."""

from dataclasses import dataclass

import numpy as np

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.download import compare, count_images
from input_pipeline.datasets.listed import ListedPhotos
from input_pipeline.datasets.listing import ValidationReport
from input_pipeline.datasets.manifest import ManifestConfig, manifest_config
from input_pipeline.vocabulary import query_subsets

# Test queries of each protocol (GRNet, Table 2).
_QUERIES = {"easy": 30_746, "hard_view": 11_383, "hard_occlusion": 1_250, "hard_cropping": 3_883}


@dataclass(kw_only=True)
class FindFashionConfig(ManifestConfig):
    """Which manifest: see `manifest_config`."""

    needed = ("item_id", "domain", "view", "occluded", "cropped")

    def compare(self, checked: ValidationReport) -> list[dict[str, object]]:
        """Returns counts of photos, pairs and each protocol's test queries, beside the paper's."""
        counts = checked.split_counts().values()
        queries = [
            row for row, _ in checked.rows if (row.split, row.domain) == ("test", "customer")
        ]
        flags = np.array([(row.view, row.occluded, row.cropped) for row in queries]).reshape(-1, 3)
        chosen = query_subsets(*flags.T)
        return [
            compare("photos", count_images(checked), None, 565_041),
            compare("pairs", sum(count["pairs"] for count in counts), None, 382_230),
            *(
                compare(f"{name} test queries", int(chosen[name].sum()), None, count)
                for name, count in _QUERIES.items()
            ),
        ]


class FindFashion(ListedPhotos):
    """The photos of a CSV, the four protocols' flags with each."""

    name = "findfashion"
    builder_config: FindFashionConfig


def describe(source: str, options: PrepareOptions) -> tuple[type[FindFashion], FindFashionConfig]:
    """Returns the builder and its config."""
    return FindFashion, manifest_config(FindFashionConfig, source, options)
