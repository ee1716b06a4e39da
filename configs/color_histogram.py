"""The floor: nearest neighbor by a color histogram. Nothing to train.

    python eval.py --config=configs/color_histogram.py

Seconds; top-1 8.6% of the synthetic set's 2,000 queries, measured
(benchmarks/results/grnet_vs_baseline.json).
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the color histogram's config for that data set, images as GRNet sees them."""
    return make_config(
        name=f"color_histogram_{dataset}",
        dataset={"name": dataset},
        image=common.recipe(dataset)["image"],
        model={"name": "color_histogram", "bins": 8, "middle": 0.6},
    )
