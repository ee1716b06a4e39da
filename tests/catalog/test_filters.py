"""Filters are a predicate of each row."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grnet_jax.catalog.filters import passing
from grnet_jax.errors import InputError

_CELLS = st.sampled_from(["", "a", "b", "a|b", "b|c", "A", "yes", "false", "1"])
_PRICES = st.sampled_from(["", "1", "1.5", "-2", "10", "n/a"])
_LIMIT = st.one_of(st.none(), st.sampled_from([-2, 1, 1.5, 9.5]))
_WANTED = st.one_of(_CELLS, st.lists(_CELLS, max_size=3), st.booleans())


def _passes(cell, wanted):
    if isinstance(wanted, dict):
        try:
            number = float(cell)
        except ValueError:
            return False
        low, high = wanted["min"], wanted["max"]
        return (low is None or number >= low) and (high is None or number <= high)
    if isinstance(wanted, bool):
        return cell.lower() in (("1", "true", "yes") if wanted else ("0", "false", "no"))
    listed = wanted if isinstance(wanted, list) else [wanted]
    return cell in listed or any(part in listed for part in cell.split("|"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_CELLS, _PRICES), max_size=12), _WANTED, _LIMIT, _LIMIT)
def test_filters_are_a_rows_predicate(rows, wanted, low, high):
    rows = [*rows, ("a", "1")]  # a field without numbers has no range
    filters = {"kind": wanted}
    if (low, high) != (None, None):
        filters["price"] = {"min": low, "max": high}
    columns = {"kind": 0, "price": 1}
    fields = {name: pd.Series([row[at] for row in rows]) for name, at in columns.items()}
    expected = [
        all(_passes(row[columns[name]], value) for name, value in filters.items()) for row in rows
    ]
    np.testing.assert_array_equal(passing(filters, fields, len(rows)), expected)


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"kinds": "a"}, "'kinds': no such field, but kind; did you mean kind"),
        ({"kind": {"min": 1}}, "its values are no numbers, such as 'a'"),
        ({"kind": {"above": 1}}, "expected min and max"),
        ({"kind": {"min": "1"}}, "expected min and max, numbers"),
        ({"kind": None}, "expected values or a range"),
    ],
)
def test_filters_that_are_none(filters, text):
    with pytest.raises(InputError, match=text):
        passing(filters, {"kind": pd.Series(["a", "b"])}, 2)
