"""The words that data sets, models and metrics share: domains, splits, views, landmarks."""

import numpy as np

DOMAINS = ("customer", "shop")  # of queries and gallery; an index holds their positions here
CUSTOMER, SHOP = range(2)
SPLITS = ("train", "val", "test")
VIEWS = ("front", "side", "back", "zoom_out", "zoom_in", "stand_alone")
UPPER, LOWER, FULL = 1, 2, 3  # clothes types, by the part of the body
UNKNOWN = -1
BOX = ["x_1", "y_1", "x_2", "y_2"]  # columns of boxes, in pixels
# A garment's landmarks, in the order of their slots; left and right are the wearer's.
LANDMARKS = tuple(
    f"{side}_{kind}"
    for kind in ("collar", "sleeve", "waistline", "hem")
    for side in ("left", "right")
)
# Of a landmark: occluded by something, or truncated: outside the image. A batch holds their
# positions here, and UNKNOWN for "absent".
VISIBILITIES = ("visible", "occluded", "truncated", "absent")
VISIBLE, OCCLUDED, TRUNCATED = range(3)


def query_subsets(
    view: np.ndarray, occluded: np.ndarray, cropped: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns which queries are in each of FindFashion's protocols (GRNet, Section 4), bool [q].

    A query with an unknown flag is in no protocol that asks for that flag.

    Args:
      view: int [q], indices into VIEWS, -1 unknown.
      occluded: int [q]: 1 if more than 30% is covered, 0 if not, -1 unknown.
      cropped: int [q]: 1 if more than 30% is out of the image, 0 if not, -1 unknown.
    """
    front, side, back = (view == number for number in range(3))
    return {
        "easy": front & (occluded == 0) & (cropped == 0),
        "hard_view": side | back,
        "hard_occlusion": occluded == 1,
        "hard_cropping": cropped == 1,
    }
