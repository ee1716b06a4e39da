"""Entries of JSON files: each is declared once, as a pydantic model, and wrong ones are named."""

from collections.abc import Iterable
from typing import Annotated, Any

import pandas as pd
import pydantic

from input_pipeline.files import short
from input_pipeline.table import Problem


class Entry(pydantic.BaseModel):
    """An object of a JSON file; fields that it does not declare are passed over."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


def declare(kind: str, expected: str, **options: Any) -> Any:
    """Declares a field: the kind of problem if it is wrong, what messages expect, and limits."""
    extra: Any = {"kind": kind}
    return pydantic.Field(description=expected, json_schema_extra=extra, **options)


Whole = Annotated[int, pydantic.Field(ge=0, lt=10**9)]
Four = Annotated[list[float], pydantic.Field(min_length=4, max_length=4)]


def validate(
    entry: type[Entry], value: Any, source: str
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Returns the fields that are right, as declared if all are, and the first problem, or ()."""
    try:
        return vars(entry.model_validate(value)), ()
    except pydantic.ValidationError as error:
        wrong = [str(name) for each in error.errors() for name in each["loc"][:1]]
    if not wrong:
        return {}, (Problem("format", source, f"expected an object, got {short(value)}"),)
    declared: Any = entry.model_fields[wrong[0]]
    got = short(value.get(wrong[0]))
    text = f"field {wrong[0]!r}: expected {declared.description}, got {got}"
    right = {name: value.get(name) for name in entry.model_fields if name not in wrong}
    return right, (Problem(declared.json_schema_extra["kind"], source, text),)


def to_rows(entry: type[Entry], values: Iterable[Any], source: str, first: int) -> pd.DataFrame:
    """Returns a row for each entry: its fields, None where wrong, `source` and `problems`.

    Args:
      entry: declares the fields.
      values: the entries of a list.
      source: a format of an entry's number, which says where it stands.
      first: number of the first entry.
    """
    columns = [*entry.model_fields, "source", "problems"]
    rows = []
    for number, value in enumerate(values, first):
        place = source.format(number)
        fields, problems = validate(entry, value, place)
        rows.append([*map(fields.get, entry.model_fields), place, problems])
    return pd.DataFrame(rows, columns=columns, dtype=object)
