"""A table in Markdown: ours beside the paper's, and which of ours differ for sure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from grnet_jax.evaluation.reports import column_title
from grnet_jax.reproduce.tables import BREAKDOWNS, CATEGORIES, RECOGNITION, Row, Table
from grnet_jax.visualization.plots import Curve

_NOTHING = "–"
_MEAN = "category_mean"


def format_table(
    table: Table, dataset: str, found: Mapping[int, Sequence[Mapping[str, Any]]]
) -> str:
    """The table with its title and notes.

    A cell of ours is the mean over the seeds in percent, the 95% interval (the mean over the seeds
    of each bound) and, with several seeds, half of their range.

    Args:
      table: what to print.
      dataset: that ours were measured on.
      found: by row number the results of its seeds; rows without are not there.
    """
    heads = [f"{column_title(name)}, ours" for name in table.figures]
    quoted = table.quoted_figures
    heads += [f"{column_title(name)}, paper" for name in quoted]
    several = len(table.protocols) > 1 or table.protocols in (CATEGORIES, BREAKDOWNS)
    first = ["protocol"] if several else []
    lines = [
        _line([*first, "#", "row", "seeds", *heads]),
        "|" + "---|" * (len(first) + 3 + len(heads)),
    ]
    for protocol in _protocols(table, found):
        title = _title(protocol, found)
        for row in table.rows:
            seeds = _of_protocol(found.get(row.number, ()), protocol)
            cells = [str(row.number), row.label, _seeds(row, seeds)]
            cells += [our_figure(seeds, figure) for figure in table.figures]
            cells += [_quoted(row, protocol, figure) for figure in quoted]
            lines.append(_line(([title] if several else []) + cells))
            title = ""
    return "\n".join(
        [f"**{heading(table, dataset)}**", "", *lines, "", *_notes(table, dataset, found)]
    )


def heading(table: Table, dataset: str) -> str:
    """The table's title and both data sets."""
    measured = "the synthetic set" if dataset == "synthetic" else dataset
    if table.ours_alone:
        return f"{table.title}. On {measured}."
    return f"{table.title}. Ours on {measured}, the paper's on {table.datasets[0]}."


def _notes(
    table: Table, dataset: str, found: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[str]:
    notes = [
        "In percent, with 95% intervals clustered by item, and ± half of the seeds' range.",
        f"{_NOTHING}: not run yet."
        if not table.quoted_figures
        else f"{_NOTHING}: of ours not run yet, of the paper's not at hand.",
        *table.notes,
    ]
    if dataset == "synthetic":
        notes.append(
            "Drawn clothes and small networks: the figures say nothing about photos of real ones."
        )
    for protocol in _protocols(table, found):
        said = separate_rows(table, protocol, found)
        if said:
            notes.append(f"{_title(protocol, found)}, top-1: {said}.")
    return [f"- {note}" for note in notes]


def top_k_curves(
    table: Table, dataset: str, found: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[Curve]:
    """A curve a row over the table's first protocol, means over the seeds as `format_table` has.

    The paper's own stand beside them on its own data set alone: elsewhere they mean nothing.
    """
    protocol, curves = table.protocols[0], []
    for row in table.rows:
        seeds = _of_protocol(found.get(row.number, ()), protocol)
        if seeds:
            curves.append(
                Curve(
                    row.label,
                    _ks(table.figures),
                    np.mean([[seed[name] for name in table.figures] for seed in seeds], axis=0),
                    np.mean(
                        [[seed["intervals_95"][name] for name in table.figures] for seed in seeds],
                        axis=0,
                    ),
                )
            )
        quoted = row.quoted.get(protocol, {})
        if quoted and dataset == table.datasets[0]:
            values = np.array(list(quoted.values())) / 100
            curves.append(Curve(f"{row.label}, paper", _ks(quoted), values))
    return curves


def landmark_curves(table: Table, found: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Curve]:
    """A curve a row of the share of visible landmarks found within a distance, in percent of the
    side of the square that the network sees; means over the seeds.
    """  # fmt: skip
    curves = []
    for row in table.rows:
        seen = [seed.get("recognition", {}) for seed in found.get(row.number, ())]
        seeds = [of_photos["pdj"] for of_photos in seen if of_photos.get("pdj")]
        if seeds:
            points = np.mean(seeds, axis=0)[1::2]  # every second, for their labels to have room
            curves.append(Curve(row.label, np.rint(100 * points[:, 0]).astype(int), points[:, 1]))
    return curves


def _ks(figures: Iterable[str]) -> np.ndarray:
    return np.array([int(name.removeprefix("top")) for name in figures])


def separate_rows(
    table: Table, protocol: str, found: Mapping[int, Sequence[Mapping[str, Any]]]
) -> str:
    """Which rows' intervals of top-1 do not overlap, in words; "" with fewer than two rows."""
    bounds = {}
    for number, results in found.items():
        seeds = [] if protocol == RECOGNITION else _of_protocol(results, protocol)
        if seeds:
            bounds[number] = np.mean([seed["intervals_95"]["top1"] for seed in seeds], axis=0)
    above = {high: [low for low in bounds if bounds[low][1] < bounds[high][0]] for high in bounds}
    said = [
        f"#{high} above {', '.join(f'#{low}' for low in sorted(lows))}"
        for high, lows in sorted(above.items())
        if lows
    ]
    if len(bounds) < 2:
        return ""
    return "intervals separate " + "; ".join(said) if said else "no two intervals separate"


def _protocols(table: Table, found: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The table's, in order; groups are those that were measured, of categories then their mean."""
    if table.protocols == BREAKDOWNS:
        measured = [
            group for results in found.values() for one in results for group in _groups(one)
        ]
        return list(dict.fromkeys(measured)) or list(table.protocols)
    if table.protocols != CATEGORIES:
        return list(table.protocols)
    names = {
        name: None
        for results in found.values()
        for result in results
        for name in result["protocols"]
        if name.startswith("category:")
    }
    return [*sorted(names), _MEAN]


def _title(protocol: str, found: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    for results in found.values():
        for seed in _of_protocol(results, protocol):
            return f"{seed['title']}, {seed['queries']:,} queries"
    return protocol.replace("_", " ")


def _of_protocol(results: Sequence[Mapping[str, Any]], protocol: str) -> list[Mapping[str, Any]]:
    """The figures of those with queries, and what was recognised in the photos of the split."""
    every: list[Mapping[str, Any]] = []
    for result in results:
        if protocol == RECOGNITION:
            if seen := result.get("recognition"):
                title = f"photos of {seen['split']}"
                of_photos = {"title": title, "queries": seen["photos"]}
                intervals = {"intervals_95": seen["intervals"]}
                every.append({**of_photos, **seen["values"], **intervals})
            continue
        figures = {**result["protocols"], **_groups(result)}.get(protocol)
        if figures and figures["queries"]:
            of_photos = result.get("recognition", {"values": {}, "intervals": {}})
            intervals = {**figures["intervals_95"], **of_photos["intervals"]}
            every.append({**figures, **of_photos["values"], "intervals_95": intervals})
    return every


def _groups(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Figures by group of the queries, of results that have them."""
    return result.get("breakdowns", {})


def _seeds(row: Row, seeds: Sequence[Any]) -> str:
    if row.fields is None:
        return "not built here"
    return f"needs {row.kind}" if row.kind and not seeds else str(len(seeds))


def our_figure(seeds: Sequence[Mapping[str, Any]], figure: str) -> str:
    """A cell of ours, as `format_table` describes it, from a protocol's figures of each seed."""
    values = [100 * seed[figure] for seed in seeds if seed.get(figure) is not None]
    if not values:
        return _NOTHING
    cell = f"{np.mean(values):.1f}"
    bounds = [seed["intervals_95"][figure] for seed in seeds if figure in seed["intervals_95"]]
    if bounds:
        low, high = np.mean(bounds, axis=0) * 100
        cell += f" [{low:.1f}, {high:.1f}]"
    return cell if len(values) == 1 else f"{cell} ± {(max(values) - min(values)) / 2:.1f}"


def _quoted(row: Row, protocol: str, figure: str) -> str:
    value = row.quoted.get(protocol, {}).get(figure)
    return _NOTHING if value is None else str(value)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
