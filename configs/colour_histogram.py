"""The floor: nearest neighbour by a colour histogram. Nothing to train.

python eval.py --config=configs/colour_histogram.py
"""

import ml_collections

from configs import grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """The colour histogram on that data set, photos as GRNet sees them."""
    config = grnet.get_config(dataset)
    config.name = f"colour_histogram_{config.data.name}"
    config.model = ml_collections.ConfigDict()
    config.model.name = "colour_histogram"
    config.eval.calibration = False
    # Levels a channel; the histogram has their cube.
    config.model.bins = 8
    # Share of each side that is looked at, around the centre.
    config.model.middle = 0.6
    return config
