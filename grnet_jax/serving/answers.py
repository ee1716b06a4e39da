"""What clients ask and are answered; the OpenAPI description is made of these."""

from typing import Annotated, Literal

import pydantic

BoxField = Annotated[
    tuple[float, float, float, float],
    pydantic.Field(description="x_1, y_1, x_2, y_2 in pixels of the upright photo"),
]
Cell = str | bool | int | float


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class Range(_Strict):
    """Numbers from min to max, both included."""

    min: float | None = None
    max: float | None = None


class _Query(_Strict):
    photo: str | None = pydantic.Field(None, description="its token", max_length=64)
    photo_number: int | None = pydantic.Field(None, ge=0, lt=2**40)
    box: BoxField | None = None

    @pydantic.model_validator(mode="after")
    def _names_one(self) -> "_Query":
        if (self.photo is None) == (self.photo_number is None):
            raise ValueError("expected one of photo and photo_number")
        return self


class Search(_Query):
    """A search; of a photo that was sent, or of one of the catalog's."""

    filters: dict[str, Cell | list[Cell] | Range] = {}
    limit: int = pydantic.Field(20, ge=1, le=100)
    offset: int = pydantic.Field(0, ge=0, le=100)


class Searches(_Strict):
    """Several searches at once."""

    searches: list[Search] = pydantic.Field(min_length=1, max_length=16)


class Explain(_Query):
    """What pair of photos is explained."""

    result: int = pydantic.Field(description="number of the photo found", ge=0, lt=2**40)
    top: int = pydantic.Field(5, ge=1, le=20)


class Garment(pydantic.BaseModel):
    """A garment that a detector found in a photo."""

    box: BoxField
    category: str
    score: float


class Photo(pydantic.BaseModel):
    """A photo that was sent, and is held for a while."""

    photo: str
    width: int
    height: int
    expires_in: int = pydantic.Field(description="seconds")
    garments: list[Garment]


class Shown(pydantic.BaseModel):
    """A photo of the catalog, by its number."""

    item_id: str
    number: int
    thumbnail: str


class Result(pydantic.BaseModel):
    """An item that was found."""

    rank: int
    item_id: str
    fields: dict[str, str]
    photo: Shown
    box: BoxField | None
    probability: float | None = pydantic.Field(description="that it is the same item")
    score: float
    other_photos: list[Shown]
    copies: list[Shown] = pydantic.Field(description="other items with a copy of this photo")


class Results(pydantic.BaseModel):
    """What was found, the most alike first."""

    generation: int
    photo: str | None
    searched: BoxField | None = pydantic.Field(description="the part of the photo that counted")
    in_catalog: float | None = pydantic.Field(
        description="probability that the item is in the catalog"
    )
    verdict: Literal["found", "unlikely"] | None
    calibration: Literal["fresh", "stale", "none"]
    passing: int = pydantic.Field(description="photos that pass the filters")
    more: bool
    results: list[Result]
    milliseconds: float


class Pair(pydantic.BaseModel):
    """Two regions that the matcher compared, as shares of their photos."""

    weight: float
    query: BoxField
    result: BoxField


class Explanation(pydantic.BaseModel):
    """The region pairs that count most in a score, the heaviest first."""

    pairs: list[Pair]


class Value(pydantic.BaseModel):
    """A value of a field, and the photos that have it."""

    value: str
    count: int


class Facet(pydantic.BaseModel):
    """A field to filter by: its values, or the range of its numbers."""

    name: str
    values: list[Value]
    min: float | None = None
    max: float | None = None


class About(pydantic.BaseModel):
    """The catalog that is live."""

    name: str
    generation: int
    indexed_at: str
    photos: int
    items: int
    model: str
    calibration: Literal["fresh", "stale", "none"]
    explains: bool
    detects: bool
    facets: list[Facet]
    samples: list[Shown]
    max_bytes: int
    max_pixels: int


class Item(pydantic.BaseModel):
    """An item of the catalog with its photos."""

    item_id: str
    fields: dict[str, str]
    photos: list[Shown]
