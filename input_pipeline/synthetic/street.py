"""Customer photos: somebody wears the garment somewhere."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from input_pipeline.synthetic import body, camera, dressing, occluders, palette, scenery, tailoring
from input_pipeline.synthetic.body import Figure
from input_pipeline.synthetic.dressing import Looks, Worn
from input_pipeline.synthetic.garments import CLOTHES_TYPES, Fabric, Garment
from input_pipeline.synthetic.items import Item, stream
from input_pipeline.synthetic.painting import Canvas
from input_pipeline.synthetic.photo import (
    MUCH,
    Exposure,
    Photo,
    annotate,
    covered_share,
    masks_of,
    outside_share,
)
from input_pipeline.vocabulary import LOWER, UPPER

OVERSAMPLING = 1.5
ASPECT = 0.75
_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Shares:
    """How a split's customer photos fall into kinds: side and back views, hard photos."""

    side: float
    back: float
    cropped: float
    occluded: float


SHARES: dict[str, Shares] = {
    "train": Shares(side=0.20, back=0.06, cropped=0.08, occluded=0.03),
    "val": Shares(side=0.27, back=0.18, cropped=0.22, occluded=0.22),
    "test": Shares(side=0.27, back=0.18, cropped=0.22, occluded=0.22),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a photo is meant to be; its annotations say what it became."""

    yaw: float
    cropped: bool
    occluded: bool


def draw_plan(rng: np.random.Generator, shares: Shares) -> Plan:
    """Returns the kind of a customer photo by the split's shares."""
    drawn = rng.random(4)
    sign = 1.0 if drawn[3] < 0.5 else -1.0
    if drawn[0] < shares.back:
        degrees = 180 - abs(rng.normal(0, 16))
        degrees = max(degrees, 138.0)
    elif drawn[0] < shares.back + shares.side:
        degrees = rng.uniform(47, 80)
    else:
        degrees = min(abs(rng.normal(0, 18)), 43.0)
    return Plan(
        yaw=sign * math.radians(degrees),
        cropped=bool(drawn[1] < shares.cropped),
        occluded=bool(drawn[2] < shares.occluded),
    )


def render_customer(
    item: Item, seed: int, split: str, index: int, number: int, picture_size: int
) -> Photo:
    """Renders customer photo `number` of an item, picture_size high and 0.75 times as wide.

    Where a photo does not come out as planned (too much or too little covered or cut off), it is
    taken again with other random numbers, a few times; the last one stands as it is.
    """
    plan = draw_plan(stream(seed, split, 5, index, number), SHARES[split])
    for attempt in range(_TRIES):
        rng = stream(seed, split, 6, index, number, attempt)
        exposure = _expose(item.garment, plan, rng, picture_size, attempt)
        extent, visible = masks_of(exposure)
        share = outside_share(extent, exposure.garment_area)
        as_planned = (share > MUCH) == plan.cropped and (
            (covered_share(extent, visible) > MUCH) == plan.occluded
        )
        # A photo without the garment would be no use to anybody.
        if as_planned and np.count_nonzero(visible) > 0.004 * visible.size:
            break
    image, quality = camera.take_snapshot(rng, exposure.image)
    return annotate(exposure, image, quality, "customer", plan.yaw)


def _expose(
    garment: Garment, plan: Plan, rng: np.random.Generator, picture_size: int, attempt: int
) -> Exposure:
    figure = body.random_figure(rng, plan.yaw, calm=attempt > 0 and not plan.occluded)
    extent = tailoring.extent(garment, figure)
    frame = _choose_frame(rng, garment, extent, plan.cropped, attempt)
    canvas, window = camera.canvas_for(
        frame, extent, picture_size, OVERSAMPLING, int(rng.integers(1 << 20))
    )
    canvas.light = float(rng.uniform(-1.2, 1.2))
    scenery.draw_scene(canvas, rng)
    looks = dressing.random_looks(rng)
    dressing.draw_person(canvas, figure, looks, _outfit(rng, garment))
    _cover(canvas, rng, figure, looks, _common(frame, extent), plan, attempt)
    height, width = canvas.whole.shape
    displacement = camera.random_displacement(rng, width, height, 1.0)
    size = (round(picture_size * ASPECT), picture_size)
    landmarks = tailoring.landmark_points(garment, figure)
    return camera.expose(canvas, window, size, landmarks, displacement)


def _common(
    frame: camera.Frame, extent: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Returns the part of the garment's box within the frame."""
    return (
        max(frame.left, extent[0]),
        max(frame.top, extent[1]),
        min(frame.left + frame.width, extent[2]),
        min(frame.top + frame.height, extent[3]),
    )


def _choose_frame(
    rng: np.random.Generator,
    garment: Garment,
    extent: tuple[float, float, float, float],
    cropped: bool,
    attempt: int,
) -> camera.Frame:
    wide, high = extent[2] - extent[0], extent[3] - extent[1]
    slack = {UPPER: (1.15, 1.75), LOWER: (1.12, 1.5)}.get(_type(garment), (1.06, 1.3))
    height = max(high, wide / ASPECT) * float(rng.uniform(*slack))
    shift = rng.uniform(-0.38, 0.38, 2)
    if cropped:
        height *= float(rng.uniform(0.65, 0.95))
    width = height * ASPECT
    left = (extent[0] + extent[2] - width) / 2 + float(shift[0]) * abs(width - wide)
    top = (extent[1] + extent[3] - height) / 2 + float(shift[1]) * abs(height - high)
    if cropped:
        # Half a garment's box holds about half of its area, whichever edge cuts it.
        cut = float(rng.uniform(0.36, 0.52)) + 0.05 * attempt
        edge = int(rng.choice(4, p=[0.4, 0.2, 0.2, 0.2]))
        if edge == 0:
            top = extent[3] - cut * high - height
        elif edge == 1:
            top = extent[1] + cut * high
        elif edge == 2:
            left = extent[2] - cut * wide - width
        else:
            left = extent[0] + cut * wide
    return camera.Frame(left, top, height, width)


def _type(garment: Garment) -> int:
    return CLOTHES_TYPES[garment.category]


def _outfit(rng: np.random.Generator, garment: Garment) -> list[Worn]:
    """Returns the garment with plain clothes on the rest of the body, inner ones first."""
    wobble = rng.normal(0, 0.035, 6)
    worn = Worn(garment, target=True, wobble=wobble)
    if _type(garment) == UPPER:
        return [_extra(rng, ("Trousers", "Joggers", "Shorts", "Skirt")), worn]
    if _type(garment) == LOWER:
        top = _extra(rng, ("Tee", "Sweater", "Shirt", "Tank"))
        return [top, worn]
    if garment.category == "Coat" or rng.random() < 0.1:
        return [_extra(rng, ("Trousers", "Joggers")), worn]
    return [worn]


def _extra(rng: np.random.Generator, categories: tuple[str, ...]) -> Worn:
    """Returns a plain garment of one of the categories, in one color."""
    category = categories[int(rng.integers(len(categories)))]
    color = palette.jitter(rng, palette.pick(rng, tuple(palette.CLOTHING.values())), 12)
    length = "short" if category == "Shorts" else "long" if category == "Joggers" else "regular"
    sleeve = {"Tee": "short", "Shirt": "long", "Sweater": "long"}.get(category, "none")
    if category in ("Tee", "Sweater", "Shirt", "Tank"):
        length = "short"
    garment = plain_garment(category, color, length, sleeve, float(rng.uniform(0, 0.5)))
    return Worn(garment, target=False, color=color)


def plain_garment(
    category: str, color: palette.Color, length: str, sleeve: str, fit: float
) -> Garment:
    """Returns a garment of a category without any details."""
    return Garment(
        category=category,
        fabric=Fabric("plain", (color, color, color), 1.0, 0.0, 0),
        trim=color,
        fit=fit,
        flare=0.1,
        length=length,
        sleeve=sleeve,
        neck="none",
        closure="none",
        chest_pocket="none",
        low_pocket="none",
        cuff="none",
        patch="none",
        stripe="none",
        waist="none",
        hem_band=False,
        logo=None,
    )


def _cover(
    canvas: Canvas,
    rng: np.random.Generator,
    figure: Figure,
    looks: Looks,
    box: tuple[float, float, float, float],
    plan: Plan,
    attempt: int,
) -> None:
    """Puts things in front of the garment, as much as planned."""
    if not plan.occluded:
        chance = max(0.0, 0.45 - 0.25 * attempt)
        if rng.random() < chance:
            occluders.draw_light(canvas, rng, figure, box, looks.skin, looks.hair)
        return
    jacket_fits = box[1] < 2.0
    if jacket_fits and attempt == 0 and rng.random() < 0.35:
        jacket = plain_garment("Jacket", (0, 0, 0), "long", "long", 0.9)
        gap = float(rng.uniform(0.22, 0.4))
        occluders.draw_open_jacket(canvas, rng, figure, jacket, gap)
        return
    share = float(rng.uniform(0.42, 0.6)) + 0.06 * attempt
    occluders.draw_heavy(canvas, rng, box, min(share, 0.75))
