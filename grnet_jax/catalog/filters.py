"""Which photos of a catalog count: filters by their fields."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from grnet_jax.errors import InputError

Filters = Mapping[str, Any]
_RANGE = {"min", "max"}
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


def passing(filters: Filters, fields: Mapping[str, pd.Series], count: int) -> np.ndarray:
    """Returns which rows pass all filters, bool [count].

    Args:
      filters: by the field's name a value, values of which one has to be there, True or False, or
        {"min": number, "max": number}, both included and each optional. A cell may hold several
        values, joined by "|".
      fields: str [count] each.
      count: number of rows.

    Raises:
      InputError: there is no such field, or a range of one without numbers.
    """
    rows = np.ones(count, bool)
    for name, wanted in filters.items():
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"filter {name!r}: no such field, but {', '.join(fields)}{hint}")
        rows &= _passes(name, wanted, fields[name])
    return rows


def _passes(name: str, wanted: Any, cells: pd.Series) -> np.ndarray:
    """Decides once for each different cell."""
    known = cells.astype("category").cat
    codes, values = known.codes.to_numpy(), known.categories.astype(str)
    if isinstance(wanted, Mapping):
        decided = _in_range(name, wanted, values)
    else:
        listed = [wanted] if isinstance(wanted, str | bool | int | float) else wanted
        if not isinstance(listed, Sequence | set | frozenset):
            raise InputError(f"filter {name!r}: expected values or a range, got {wanted!r}")
        texts = {text for value in listed for text in _texts(value)}
        decided = np.array([bool(texts & {value, *value.split("|")}) for value in values], bool)
    return decided[codes]


def _texts(value: Any) -> tuple[str, ...]:
    """Returns how a cell may spell a value."""
    if isinstance(value, bool):
        spelled = _TRUE if value else _FALSE
        return (*spelled, *map(str.title, spelled), *map(str.upper, spelled))
    return (str(value),)


def _in_range(name: str, wanted: Mapping[str, Any], values: Sequence[str]) -> np.ndarray:
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(np.float64)
    limits = {key: wanted[key] for key in wanted if wanted[key] is not None}
    told = all(isinstance(limit, int | float) for limit in limits.values())
    if wanted.keys() - _RANGE or not limits or not told:
        raise InputError(f"filter {name!r}: expected min and max, numbers, got {dict(wanted)!r}")
    if len(values) and np.isnan(numbers).all():
        raise InputError(f"filter {name!r}: its values are no numbers, such as {values[0]!r}")
    low, high = limits.get("min", -np.inf), limits.get("max", np.inf)
    return (numbers >= low) & (numbers <= high)
