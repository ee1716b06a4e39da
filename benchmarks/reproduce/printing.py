"""A table in Markdown: ours beside the paper's, and which of ours differ for sure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.reproduce.papers import (
    BREAKDOWNS,
    CATEGORIES,
    RECOGNITION,
    SYNTHETIC,
    Row,
    Table,
    papers_counts,
)
from benchmarks.results_file import markdown_table
from grnet_jax.evaluation.reports import column_title
from grnet_jax.visualization.plots import Curve

# By row number the results of its seeds; rows without are not there.
Results = Mapping[int, Sequence[Mapping[str, Any]]]
_NOTHING = "–"
_OURS = "*not in the paper:*"
_IN_MILLIONS = "parameters_m"
_PARTS = ("collar", "sleeve", "waistline", "hem")  # of landmarks, each of two slots
_COLUMNS = {_IN_MILLIONS: "parameters, M", "ap_50": "AP at IoU 0.5"} | {
    f"landmark_pdj_0.1_{part}": f"{part} PDJ@0.1" for part in _PARTS
}


def format_table(table: Table, dataset: str, results: Results) -> str:
    """Returns the table with its title and notes: the paper's rows, then ours below a line.

    A cell of ours is the mean over the seeds in percent, the 95% interval (the mean over the seeds
    of each bound) and, with several seeds, half of their range.

    Args:
      table: what to print.
      dataset: that ours were measured on.
      results: ours.
    """
    quoted, decimals = table.quoted_metrics, _decimals(table)
    heads = ["#", "row", "seeds"]
    heads += [f"{column_heading(name)}, ours" for name in table.metrics]
    heads += [f"{column_heading(name)}, paper" for name in quoted]
    several = len(table.protocols) > 1 or table.protocols[0] in (CATEGORIES, BREAKDOWNS)
    first = next((n for n, row in table.rows.items() if row.ours), 0)
    lines = []
    for protocol in _protocols(table, dataset, results):
        title = _title(protocol, results)
        for number, row in table.rows.items():
            if number == first:
                lines.append([""] * several + ["", _OURS] + [""] * (len(heads) - 2))
            seeds = _metrics_of(results.get(number, ()), protocol)
            cells = [str(number), row.label, _seeds(row, seeds)]
            cells += [format_cell(seeds, metric) for metric in table.metrics]
            paper = row.quoted.get(protocol, {})
            cells += [
                f"{paper[metric]:.{decimals[metric]}f}" if metric in paper else _NOTHING
                for metric in quoted
            ]
            lines.append([title] * several + cells)
            title = ""
    shown = markdown_table(["protocol"] * several + heads, lines)
    notes = [f"- {note}" for note in _notes(table, dataset, results)]
    return "\n".join([f"**{heading(table, dataset)}**", "", shown, *notes])


def column_heading(metric: str) -> str:
    """Returns a metric's name as a table's heads show it."""
    return _COLUMNS.get(metric) or column_title(metric)


def _decimals(table: Table) -> dict[str, int]:
    """By metric, as many as any of the paper's numbers has: JSON has 75.00 as 75.0."""
    return {
        metric: max(
            len(str(of_protocol[metric]).partition(".")[2])
            for row in table.rows.values()
            for of_protocol in row.quoted.values()
            if metric in of_protocol
        )
        for metric in table.quoted_metrics
    }


def heading(table: Table, dataset: str) -> str:
    """Returns the table's title and both data sets."""
    measured = "the synthetic set" if dataset == SYNTHETIC else dataset
    if table.datasets == (SYNTHETIC,):  # no paper's table
        return f"{table.title}. On {measured}."
    if dataset == table.datasets[0]:
        return f"{table.title}. Ours and the paper's on {measured}."
    return f"{table.title}. Ours on {measured}, the paper's on {table.datasets[0]}."


def _notes(table: Table, dataset: str, results: Results) -> Iterator[str]:
    yield "In percent, with 95% intervals clustered by item, and ± half of the seeds' range."
    yield f"{_NOTHING}: ours not measured, or the paper has no number."
    if not all(row.built for row in table.rows.values()):
        yield "quoted: not trained here, or not on this data set; the paper's numbers alone."
    yield from table.notes
    if counts := papers_counts(dataset):
        yield counts
    if dataset == SYNTHETIC:
        yield "Drawn clothes and small networks: the numbers say nothing about photos of real ones."
    for protocol in _protocols(table, dataset, results):
        if text := separate_rows(protocol, results):
            yield f"{_title(protocol, results)}, top-1: {text}."


def top_k_curves(table: Table, dataset: str, results: Results) -> list[Curve]:
    """Returns a curve a row over the table's first protocol, means as `format_table` has them.

    The paper's own are beside them on its own data set alone: elsewhere they mean nothing.
    """
    protocol, curves = table.protocols[0], []
    for number, row in table.rows.items():
        seeds = _metrics_of(results.get(number, ()), protocol)
        if seeds:
            values = [[seed[name] for name in table.metrics] for seed in seeds]
            bounds = [[seed["intervals_95"][name] for name in table.metrics] for seed in seeds]
            ks = _ks(table.metrics)
            curves.append(Curve(row.label, ks, np.mean(values, axis=0), np.mean(bounds, axis=0)))
        quoted = row.quoted.get(protocol, {})
        if quoted and dataset == table.datasets[0]:
            shares = np.array(list(quoted.values())) / 100
            curves.append(Curve(f"{row.label}, paper", _ks(tuple(quoted)), shares))
    return curves


def landmark_curves(table: Table, results: Results) -> list[Curve]:
    """Returns curves of the fraction of visible landmarks detected within a distance.

    A curve a row, of all landmarks; in a table of a single row a curve a kind of landmark. Means
    over the seeds; distances are in percent of the side of the square that the network sees.
    """
    curves = []
    for number, row in table.rows.items():
        recognized = [seed.get("recognition", {}) for seed in results.get(number, ())]
        if len(table.rows) > 1:
            every = {row.label: [one["pdj"] for one in recognized if one.get("pdj")]}
        else:
            every = {
                part: [one["pdj_parts"][part] for one in recognized if one.get("pdj_parts")]
                for part in _PARTS
            }
        for label, seeds in every.items():
            if seeds:  # every second point, for their labels to have room
                points = np.mean(seeds, axis=0)[1::2]
                curves.append(Curve(label, np.rint(100 * points[:, 0]).astype(int), points[:, 1]))
    return curves


def attribute_bars(table: Table, results: Results) -> tuple[list[str], dict[str, list[float]]]:
    """Returns the attributes by falling recall of the last row, and by row each one's recall.

    Recall is top-5, a mean over the seeds, of the attributes that a results file keeps.
    """
    recalls: dict[str, dict[str, float]] = {}
    for number, row in table.rows.items():
        recognized = [seed.get("recognition", {}) for seed in results.get(number, ())]
        if seeds := [one["attributes"] for one in recognized if one.get("attributes")]:
            recalls[row.label] = {k: float(np.mean([one[k] for one in seeds])) for k in seeds[0]}
    if not recalls:
        return [], {}
    last = list(recalls.values())[-1]
    names = sorted(last, key=lambda name: -last[name])
    return names, {label: [of[name] for name in names] for label, of in recalls.items()}


def _ks(metrics: Sequence[str]) -> np.ndarray:
    return np.array([int(name.removeprefix("top")) for name in metrics])


def separate_rows(protocol: str, results: Results) -> str:
    """Returns in words which rows' intervals of top-1 do not overlap; "" with fewer than two."""
    bounds = {}
    for number in sorted(results):
        seeds = _metrics_of(results[number], protocol) if protocol != RECOGNITION else ()
        if seeds:
            bounds[number] = np.mean([seed["intervals_95"]["top1"] for seed in seeds], axis=0)
    if len(bounds) < 2:
        return ""
    above = {high: [low for low in bounds if bounds[low][1] < bounds[high][0]] for high in bounds}
    parts = [
        f"#{high} above {', '.join(f'#{n}' for n in low)}" for high, low in above.items() if low
    ]
    return f"intervals separate {'; '.join(parts)}" if parts else "no two intervals separate"


def _protocols(table: Table, dataset: str, results: Results) -> list[str]:
    """The table's, in order; groups are those that were measured, of categories then their mean.

    Categories are the paper's, then others that were measured; on another data set than the
    paper's its categories are there only while nothing was measured.
    """
    measured = [one for seeds in results.values() for one in seeds]
    if table.protocols[0] == BREAKDOWNS:
        groups = dict.fromkeys(name for one in measured for name in one.get("breakdowns", {}))
        # The scale of boxes is ours.
        ordered = sorted(groups, key=lambda name: name.startswith("scale:"))
        return ordered or [BREAKDOWNS]
    if table.protocols[0] == CATEGORIES:
        every = max((row.quoted for row in table.rows.values()), key=len)  # in the paper's order
        names = dict.fromkeys(every)
        if measured and dataset != table.datasets[0]:
            names = {}
        names |= dict.fromkeys(sorted(n for one in measured for n in one["protocols"]))
        means = [name for name in ("category_mean", "category_mean_items") if name in names]
        categories = [name for name in names if name.startswith("category:")]
        return [*categories, *means] if names else ["category_mean"]
    found = {name for one in measured for name in one["protocols"]}
    with_items = (one for name in table.protocols for one in (name, f"{name}_items"))
    return [name for name in with_items if name in found or name in table.protocols]


def _title(protocol: str, results: Results) -> str:
    for seeds in results.values():
        for metrics in _metrics_of(seeds, protocol):
            gallery = metrics.get("gallery")
            among = f" among {gallery:,} photos" if gallery else ""
            return f"{metrics['title']}, {metrics['queries']:,} queries{among}"
    return protocol.removeprefix("category:").replace("_", " ")


def _metrics_of(results: Sequence[Mapping[str, Any]], protocol: str) -> list[dict[str, Any]]:
    """The metrics of those with queries, and what was recognized in the split's images."""
    every = []
    for result in results:
        recognition = result.get("recognition", {"values": {}, "intervals": {}})
        if protocol != RECOGNITION:
            metrics = {**result["protocols"], **result.get("breakdowns", {})}.get(protocol)
        elif recognition["values"]:
            described = {"title": f"photos of {recognition['split']}"}
            metrics = described | {"queries": recognition["photos"], "intervals_95": {}}
        else:
            metrics = None
        if metrics and metrics["queries"]:
            intervals = {**metrics["intervals_95"], **recognition["intervals"]}
            metrics = {**metrics, _IN_MILLIONS: result.get(_IN_MILLIONS)}
            every.append({**metrics, **recognition["values"], "intervals_95": intervals})
    return every


def _seeds(row: Row, seeds: Sequence[Any]) -> str:
    if not row.built:
        return "quoted" if row.quoted else "not on this set"
    return f"needs {row.kind}" if row.kind and not seeds else str(len(seeds))


def format_cell(seeds: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Returns a cell of ours, as `format_table` describes it, from a protocol's metrics by seed."""
    unit = 1 if metric == _IN_MILLIONS else 100
    values = [unit * seed[metric] for seed in seeds if seed.get(metric) is not None]
    if not values:
        return _NOTHING
    cell = f"{np.mean(values):.1f}"
    bounds = [seed["intervals_95"][metric] for seed in seeds if metric in seed["intervals_95"]]
    if bounds:
        low, high = np.mean(bounds, axis=0) * 100
        cell += f" [{low:.1f}, {high:.1f}]"
    return cell if len(values) == 1 else f"{cell} ± {(max(values) - min(values)) / 2:.1f}"
