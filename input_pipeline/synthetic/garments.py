"""What a synthetic garment is: its cut, fabric and details, and how items of a family differ.

Everything here is a description; nothing is drawn. Lengths are in head heights of the figure
(see body.py). "left" and "right" are always the wearer's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from input_pipeline.synthetic import palette
from input_pipeline.synthetic.palette import Color
from input_pipeline.vocabulary import FULL, LOWER, UPPER

FABRICS: tuple[str, ...] = (
    "plain",
    "stripes_h",
    "stripes_v",
    "diagonal",
    "plaid",
    "gingham",
    "dots",
    "floral",
    "block",
    "gradient",
    "camouflage",
    "herringbone",
    "denim",
)
GLYPHS: tuple[str, ...] = (
    "disc",
    "ring",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "cross",
    "bolt",
    "bars",
    "moon",
    "arrow",
    "A",
    "B",
    "E",
    "K",
    "M",
    "R",
    "X",
    "Z",
    "3",
    "7",
    "8",
    "99",
)


@dataclasses.dataclass(frozen=True)
class Fabric:
    """A pattern: its kind (one of FABRICS), three colors, scale, angle (radians), own seed."""

    kind: str
    colors: tuple[Color, Color, Color]
    scale: float
    angle: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Logo:
    """A small print: a glyph of GLYPHS at a named place; `size` is its height in heads."""

    glyph: str
    place: str
    color: Color
    size: float


@dataclasses.dataclass(frozen=True)
class Garment:
    """The full description of one garment; fields hold option names of its category's Cut."""

    category: str
    fabric: Fabric
    trim: Color
    fit: float  # 0 slim .. 1 loose
    flare: float  # 0 straight .. 1 wide hem
    length: str  # short | regular | long
    sleeve: str  # none | short | half | long
    neck: str  # crew | v | scoop | square | collar | turtle | hood | none
    closure: str  # none | buttons | zip
    chest_pocket: str  # none | left | right | both
    low_pocket: str  # none | left | right | both | kangaroo
    cuff: str  # none | left | right | both
    patch: str  # none | left | right (an elbow patch, or a knee patch)
    stripe: str  # none | left | right | both (down sleeves or legs)
    waist: str  # none | drawstring | belt | loops | sash
    hem_band: bool
    logo: Logo | None


@dataclasses.dataclass(frozen=True)
class Cut:
    """What a category may look like: the options of every field (repeated = more likely)."""

    clothes_type: int
    sleeve: Sequence[str] = ("none",)
    neck: Sequence[str] = ("none",)
    length: Sequence[str] = ("regular",)
    closure: Sequence[str] = ("none",)
    chest_pocket: Sequence[str] = ("none",)
    low_pocket: Sequence[str] = ("none",)
    cuff: Sequence[str] = ("none",)
    patch: Sequence[str] = ("none",)
    stripe: Sequence[str] = ("none",)
    waist: Sequence[str] = ("none",)
    hem_band: Sequence[bool] = (False,)
    logo_places: Sequence[str] = ()
    fabrics: Sequence[str] = FABRICS[:-1]
    plain_share: float = 0.35
    fit: tuple[float, float] = (0.1, 0.9)
    flare: tuple[float, float] = (0.0, 0.3)


_POCKETS = ("none", "none", "left", "right", "both")
_SIDES = ("none", "none", "none", "left", "right")
_BOTH = ("none", "none", "none", "both", "left", "right")
_CHEST = ("left_chest", "right_chest", "center", "center", "belly", "left_hem", "right_hem")
_SLEEVED = (*_CHEST, "left_sleeve", "right_sleeve")
_LEGS = ("left_thigh", "right_thigh", "left_hip", "right_hip")
_LONG_LEGS = (*_LEGS, "left_shin", "right_shin")
_WOVEN = tuple(kind for kind in FABRICS if kind not in ("denim", "block", "camouflage"))
_TROUSER = ("stripes_v", "plaid", "camouflage", "herringbone", "gingham", "denim", "denim", "denim")

CUTS: dict[str, Cut] = {
    "Tee": Cut(
        UPPER,
        sleeve=("short", "short", "short", "half"),
        neck=("crew", "crew", "v", "scoop"),
        length=("short", "regular", "regular", "long"),
        chest_pocket=_POCKETS,
        cuff=_BOTH,
        hem_band=(False, False, True),
        logo_places=_SLEEVED,
    ),
    "Shirt": Cut(
        UPPER,
        sleeve=("short", "long", "long"),
        neck=("collar",),
        length=("regular", "long"),
        closure=("buttons",),
        chest_pocket=_POCKETS,
        cuff=_BOTH,
        patch=_SIDES,
        logo_places=_SLEEVED,
        fabrics=_WOVEN,
    ),
    "Sweater": Cut(
        UPPER,
        sleeve=("long", "long", "half"),
        neck=("crew", "v", "turtle"),
        length=("short", "regular", "long"),
        cuff=_BOTH,
        patch=_SIDES,
        stripe=_BOTH,
        hem_band=(True, True, False),
        logo_places=_SLEEVED,
        fit=(0.3, 1.0),
    ),
    "Hoodie": Cut(
        UPPER,
        sleeve=("long",),
        neck=("hood",),
        length=("regular", "long"),
        closure=("none", "zip"),
        low_pocket=("kangaroo", "none"),
        cuff=_BOTH,
        patch=_SIDES,
        stripe=_BOTH,
        waist=("drawstring", "none"),
        hem_band=(True, False),
        logo_places=_SLEEVED,
        plain_share=0.5,
        fit=(0.4, 1.0),
    ),
    "Jacket": Cut(
        UPPER,
        sleeve=("long",),
        neck=("collar", "crew", "turtle"),
        length=("short", "regular"),
        closure=("zip", "buttons"),
        chest_pocket=_POCKETS,
        low_pocket=("none", "left", "right", "both"),
        cuff=_BOTH,
        patch=_SIDES,
        stripe=_BOTH,
        hem_band=(True, False),
        logo_places=("left_chest", "right_chest", "left_hem", "right_hem", "left_sleeve"),
        fabrics=FABRICS,
        plain_share=0.5,
        fit=(0.4, 1.0),
    ),
    "Tank": Cut(
        UPPER,
        neck=("scoop", "v", "square", "crew"),
        length=("short", "regular", "long"),
        closure=("none", "none", "buttons"),
        chest_pocket=_POCKETS,
        hem_band=(False, True),
        logo_places=_CHEST,
        fit=(0.0, 0.7),
        flare=(0.0, 0.6),
    ),
    "Trousers": Cut(
        LOWER,
        length=("regular", "long", "long"),
        closure=("buttons", "none"),
        low_pocket=("none", "left", "right", "both"),
        cuff=_BOTH,
        patch=_SIDES,
        stripe=_BOTH,
        waist=("loops", "belt", "none", "drawstring"),
        logo_places=_LONG_LEGS,
        fabrics=_TROUSER,
        plain_share=0.4,
        flare=(0.0, 1.0),
    ),
    "Joggers": Cut(
        LOWER,
        length=("long",),
        low_pocket=("none", "left", "right", "both"),
        cuff=("both", "both", "none", "left", "right"),
        patch=_SIDES,
        stripe=_BOTH,
        waist=("drawstring", "none"),
        logo_places=_LONG_LEGS,
        fabrics=("stripes_v", "camouflage", "gradient", "block", "diagonal", "dots"),
        plain_share=0.55,
        flare=(0.0, 0.0),
    ),
    "Shorts": Cut(
        LOWER,
        length=("short",),
        closure=("buttons", "none"),
        low_pocket=("none", "left", "right", "both"),
        cuff=_BOTH,
        stripe=_BOTH,
        waist=("loops", "belt", "drawstring", "none"),
        logo_places=_LEGS,
        fabrics=FABRICS,
        fit=(0.3, 1.0),
    ),
    "Skirt": Cut(
        LOWER,
        length=("short", "regular", "long"),
        closure=("none", "none", "buttons", "zip"),
        low_pocket=_POCKETS,
        waist=("belt", "none", "sash", "loops"),
        hem_band=(False, True),
        logo_places=("left_hip", "right_hip", "left_hem", "right_hem"),
        fabrics=FABRICS,
        flare=(0.0, 1.0),
    ),
    "Dress": Cut(
        FULL,
        sleeve=("none", "short", "short", "half", "long"),
        neck=("crew", "v", "scoop", "square", "collar"),
        length=("short", "regular", "long"),
        closure=("none", "none", "buttons"),
        chest_pocket=_POCKETS,
        low_pocket=_POCKETS,
        cuff=_BOTH,
        waist=("none", "belt", "sash"),
        hem_band=(False, False, True),
        logo_places=("left_chest", "right_chest", "center", "left_hip", "right_hip", "left_hem"),
        flare=(0.1, 1.0),
    ),
    "Coat": Cut(
        FULL,
        sleeve=("long",),
        neck=("collar", "turtle", "hood"),
        length=("short", "regular"),
        closure=("buttons", "zip"),
        chest_pocket=_POCKETS,
        low_pocket=("none", "left", "right", "both"),
        cuff=_BOTH,
        patch=_SIDES,
        waist=("none", "belt"),
        logo_places=("left_chest", "right_chest", "left_sleeve", "right_sleeve"),
        fabrics=("plaid", "herringbone", "gingham", "stripes_v", "camouflage", "block"),
        plain_share=0.5,
        fit=(0.4, 1.0),
        flare=(0.1, 0.5),
    ),
    "Jumpsuit": Cut(
        FULL,
        sleeve=("none", "short", "long"),
        neck=("v", "scoop", "collar", "square"),
        length=("regular", "long"),
        closure=("none", "buttons", "zip"),
        chest_pocket=_POCKETS,
        low_pocket=_POCKETS,
        cuff=_BOTH,
        patch=_SIDES,
        waist=("belt", "none", "sash", "drawstring"),
        logo_places=("left_chest", "right_chest", "center", "left_thigh", "right_thigh"),
        fabrics=FABRICS,
        flare=(0.0, 0.8),
    ),
}
CATEGORIES: tuple[str, ...] = tuple(CUTS)
CLOTHES_TYPES: dict[str, int] = {name: cut.clothes_type for name, cut in CUTS.items()}

# Fields in which a sibling may differ from its family's base garment: all local to one spot.
LOCAL_FIELDS: tuple[str, ...] = (
    "closure",
    "chest_pocket",
    "low_pocket",
    "cuff",
    "patch",
    "stripe",
    "waist",
    "neck",
)
_LOGO_CHANGES = ("logo_glyph", "logo_place", "logo_color", "logo_presence", "logo_place")
# Necks that may replace one another without the garment's outline changing much.
_OPEN_NECKS = ("crew", "v", "scoop", "square", "collar")


def has_legs(category: str) -> bool:
    """Returns whether garments of the category have two legs."""
    return category in ("Trousers", "Joggers", "Shorts", "Jumpsuit")


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _sample_fabric(rng: np.random.Generator, category: str) -> Fabric:
    cut = CUTS[category]
    plain = rng.random() < cut.plain_share
    kind = "plain" if plain else _choose(rng, [k for k in cut.fabrics if k != "plain"])
    clothing = tuple(palette.CLOTHING.values())
    first = palette.pick(rng, palette.DENIM if kind == "denim" else clothing)
    first = palette.jitter(rng, first, 12)
    second = palette.contrasting(rng, clothing, first, 70.0)
    third = palette.contrasting(rng, clothing, second, 60.0)
    return Fabric(
        kind=kind,
        colors=(first, palette.jitter(rng, second, 10), palette.jitter(rng, third, 10)),
        scale=float(rng.uniform(0.75, 1.5)),
        angle=float(rng.uniform(-0.06, 0.06)),
        seed=int(rng.integers(1 << 30)),
    )


def _sample_logo(
    rng: np.random.Generator, garment_color: Color, cut: Cut, sleeved: bool
) -> Logo | None:
    places = [place for place in cut.logo_places if sleeved or not place.endswith("sleeve")]
    if not places or rng.random() > 0.72:
        return None
    return _new_logo(rng, _choose(rng, places), garment_color, cut.clothes_type)


def _new_logo(
    rng: np.random.Generator, place: str, garment_color: Color, clothes_type: int
) -> Logo:
    large = place in ("center", "belly") and rng.random() < 0.55
    size = float(rng.uniform(0.44, 0.6) if large else rng.uniform(0.28, 0.36))
    # Taller garments are seen from farther away: their prints must be larger to be seen at all.
    size *= 1.0 if large else {UPPER: 1.0, LOWER: 1.35, FULL: 1.2}[clothes_type]
    return Logo(
        glyph=_choose(rng, GLYPHS),
        place=place,
        color=palette.contrasting(rng, palette.ACCENTS, garment_color),
        size=size,
    )


def _hides_pocket(garment: Garment, place: str) -> bool:
    """Returns whether a print at `place` would lie on a pocket of the garment."""
    side, _, spot = place.partition("_")
    if spot == "chest":
        return garment.chest_pocket in (side, "both")
    if spot in ("hem", "hip", "thigh"):
        return garment.low_pocket in (side, "both")
    return False


def _pockets_clear(garment: Garment) -> Garment:
    """Returns the garment without pockets that its print would hide."""
    if garment.logo is None or not _hides_pocket(garment, garment.logo.place):
        return garment
    if garment.logo.place.endswith("chest"):
        return dataclasses.replace(garment, chest_pocket="none")
    return dataclasses.replace(garment, low_pocket="none")


def sample_garment(rng: np.random.Generator) -> Garment:
    """Returns the base garment of a family."""
    return _pockets_clear(_sample_garment(rng))


def _sample_garment(rng: np.random.Generator) -> Garment:
    category = _choose(rng, CATEGORIES)
    cut = CUTS[category]
    fabric = _sample_fabric(rng, category)
    sleeve = _choose(rng, cut.sleeve)
    return Garment(
        category=category,
        fabric=fabric,
        trim=palette.contrasting(rng, palette.ACCENTS, fabric.colors[0], 90.0),
        fit=float(rng.uniform(*cut.fit)),
        flare=float(rng.uniform(*cut.flare)),
        length=_choose(rng, cut.length),
        sleeve=sleeve,
        neck=_choose(rng, cut.neck),
        closure=_choose(rng, cut.closure),
        chest_pocket=_choose(rng, cut.chest_pocket),
        low_pocket=_choose(rng, cut.low_pocket),
        cuff=_choose(rng, cut.cuff),
        patch=_choose(rng, cut.patch),
        stripe=_choose(rng, cut.stripe),
        waist=_choose(rng, cut.waist),
        hem_band=cut.hem_band[int(rng.integers(len(cut.hem_band)))],
        logo=_sample_logo(rng, fabric.colors[0], cut, sleeve != "none"),
    )


def _with(garment: Garment, field: str, option: str) -> Garment:
    values: dict[str, Any] = {field: option}
    return dataclasses.replace(garment, **values)


def _field_alternatives(garment: Garment, field: str) -> list[str]:
    current = getattr(garment, field)
    options = sorted(set(getattr(CUTS[garment.category], field)) - {current})
    if field == "neck":
        if current not in _OPEN_NECKS:
            return []
        options = [option for option in options if option in _OPEN_NECKS]
    if field == "patch" and garment.sleeve not in ("long",) and not has_legs(garment.category):
        return []
    if field in ("cuff", "stripe") and garment.sleeve == "none" and not has_legs(garment.category):
        return []
    if garment.logo is not None and field.endswith("pocket"):
        changed = {option: _with(garment, field, option) for option in options}
        place = garment.logo.place
        options = [option for option in options if not _hides_pocket(changed[option], place)]
    return options


def _visible_places(garment: Garment) -> list[str]:
    places = sorted(set(CUTS[garment.category].logo_places))
    if garment.sleeve == "none":
        places = [place for place in places if not place.endswith("sleeve")]
    return [place for place in places if not _hides_pocket(garment, place)]


def _possible_changes(garment: Garment) -> list[str]:
    fields = [field for field in LOCAL_FIELDS if _field_alternatives(garment, field)]
    if garment.logo is None:
        # Adding a logo counts as several changes: each member of the family gets its own.
        return fields + ["logo_presence"] * (2 if _visible_places(garment) else 0)
    movable = [place for place in _visible_places(garment) if place != garment.logo.place]
    changes = [*_LOGO_CHANGES, "logo_glyph"] if movable else ["logo_glyph", "logo_color"]
    return fields + changes


def _changed_logo(rng: np.random.Generator, garment: Garment, change: str) -> Logo | None:
    logo = garment.logo
    base = garment.fabric.colors[0]
    if logo is None:
        place = _choose(rng, _visible_places(garment))
        return _new_logo(rng, place, base, CLOTHES_TYPES[garment.category])
    if change == "logo_glyph":
        glyph = _choose(rng, [g for g in GLYPHS if g != logo.glyph])
        return dataclasses.replace(logo, glyph=glyph)
    if change == "logo_place":
        places = [place for place in _visible_places(garment) if place != logo.place]
        return dataclasses.replace(logo, place=_choose(rng, places))
    if change == "logo_color":
        others = tuple(c for c in palette.ACCENTS if palette.distance(c, logo.color) > 90)
        return dataclasses.replace(logo, color=palette.contrasting(rng, others, base))
    return None


def _changed(rng: np.random.Generator, base: Garment, change: str) -> Garment:
    """Returns `base` with one change, its new value drawn from `rng`."""
    if change.startswith("logo"):
        return dataclasses.replace(base, logo=_changed_logo(rng, base, change))
    return _with(base, change, _choose(rng, _field_alternatives(base, change)))


def sibling(rng: np.random.Generator, base: Garment, member: int) -> tuple[Garment, str]:
    """Returns member number `member` >= 1 of the family of `base`, and the name of the one change.

    `rng` must stand in the same state for every member of the family: the members before are
    worked out on the way, so that no two are alike.
    """
    changes = _possible_changes(base)
    order = [changes[int(index)] for index in rng.permutation(len(changes))]
    known = {base}
    made, change = base, "base"
    for number in range(member):
        change = order[number % len(order)]
        while made in known:
            made = _changed(rng, base, change)
            change = change if made not in known else order[int(rng.integers(len(order)))]
        known.add(made)
    return made, change


def recolored(rng: np.random.Generator, garment: Garment, variant: int) -> Garment:
    """Returns the garment in other colors, far from those of its other variants; 0 is its own.

    `rng` must stand in the same state for every variant of the garment.
    """
    if not variant:
        return garment
    clothing = tuple(palette.CLOTHING.values())
    taken = [garment.fabric.colors[0]]
    for number in rng.permutation(len(clothing)):
        if min(palette.distance(clothing[number], color) for color in taken) >= 60:
            taken.append(clothing[number])
    first = taken[variant]
    second = palette.contrasting(rng, clothing, first, 70.0)
    third = palette.contrasting(rng, clothing, second, 60.0)
    logo = garment.logo
    if logo is not None:
        color = palette.contrasting(rng, palette.ACCENTS, first)
        logo = dataclasses.replace(logo, color=color)
    return dataclasses.replace(
        garment,
        fabric=dataclasses.replace(garment.fabric, colors=(first, second, third)),
        trim=palette.contrasting(rng, palette.ACCENTS, first, 90.0),
        logo=logo,
    )


def _fabric_attribute(kind: str) -> str:
    return "pattern_stripes" if kind.startswith("stripes") else f"pattern_{kind}"


def attributes_of(garment: Garment) -> tuple[str, ...]:
    """Returns the sorted attribute names (all in ATTRIBUTES) that hold for `garment`."""
    names = {_fabric_attribute(garment.fabric.kind), f"length_{garment.length}"}
    names.add(
        "fit_slim" if garment.fit < 0.33 else "fit_loose" if garment.fit > 0.66 else "fit_mid"
    )
    clothes_type = CLOTHES_TYPES[garment.category]
    if clothes_type != LOWER:
        names |= {f"sleeve_{garment.sleeve}", f"neck_{garment.neck}"}
    if garment.closure != "none":
        names.add(f"closure_{garment.closure}")
    if garment.chest_pocket != "none":
        names.add("pocket_chest")
    if garment.low_pocket != "none":
        names.add("pocket_kangaroo" if garment.low_pocket == "kangaroo" else "pocket_low")
    for field in ("cuff", "patch", "stripe"):
        if getattr(garment, field) != "none":
            names.add(f"{field}_contrast")
    if garment.waist != "none":
        names.add(f"waist_{garment.waist}")
    if garment.flare > 0.5:
        names.add("hem_flared")
    if garment.hem_band:
        names.add("hem_band")
    if garment.logo is not None:
        names |= {"logo", f"logo_{garment.logo.place.split('_')[-1]}"}
    return tuple(sorted(names))


def _all_attributes() -> tuple[str, ...]:
    names = {_fabric_attribute(kind) for kind in FABRICS}
    names |= {f"length_{value}" for value in ("short", "regular", "long")}
    names |= {"fit_slim", "fit_mid", "fit_loose", "hem_flared", "hem_band", "logo"}
    for cut in CUTS.values():
        if cut.clothes_type != LOWER:
            names |= {f"sleeve_{value}" for value in cut.sleeve}
            names |= {f"neck_{value}" for value in cut.neck}
        names |= {f"closure_{value}" for value in cut.closure if value != "none"}
        names |= {f"waist_{value}" for value in cut.waist if value != "none"}
        names |= {f"logo_{place.split('_')[-1]}" for place in cut.logo_places}
    names |= {"pocket_chest", "pocket_low", "pocket_kangaroo"}
    names |= {f"{field}_contrast" for field in ("cuff", "patch", "stripe")}
    return tuple(sorted(names))


ATTRIBUTES: tuple[str, ...] = _all_attributes()
