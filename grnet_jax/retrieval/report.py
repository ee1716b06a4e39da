"""An evaluation as a result file and as a table."""

import json
import math
from typing import Any

from etils import epath

from grnet_jax.retrieval.evaluation import Evaluation

TABLE_COLUMNS = ("top1", "top5", "top20", "top50", "map")


def results_dict(evaluation: Evaluation, model: str, step: int) -> dict[str, Any]:
    """The figures as `results.json` holds them; every share and interval in 0..1.

    A figure over no queries is null.
    """
    protocols = {}
    for name, figures in evaluation.figures.items():
        protocols[name] = {key: _number(value) for key, value in figures.values.items()} | {
            "queries": figures.queries,
            "queries_without_match": figures.without_match,
            "gallery": figures.gallery,
            "title": figures.title,
            "intervals_95": {
                key: [_number(low), _number(high)] for key, (low, high) in figures.intervals.items()
            },
        }
    task = evaluation.task
    return {
        "dataset": task.dataset,
        "split": task.split,
        "gallery_splits": list(task.gallery_splits),
        "same_category": bool(task.groups[0].category),
        "sampled": task.sampled,
        "model": model,
        "step": step,
        "protocols": protocols,
    }


def write_results(directory: epath.Path, evaluation: Evaluation, model: str, step: int) -> str:
    """Writes `results.json` and returns its path."""
    path = directory / "results.json"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results_dict(evaluation, model, step), indent=2) + "\n")
    return str(path)


def format_table(evaluation: Evaluation) -> str:
    """The figures in percent with their 95% intervals, a protocol a line."""
    head = ["protocol", "queries", "gallery", *(column_title(c) for c in TABLE_COLUMNS)]
    rows = [head]
    notes = []
    for figures in evaluation.figures.values():
        gallery = "by category" if figures.gallery is None else f"{figures.gallery:,}"
        cells = [figures.title, f"{figures.queries:,}", gallery]
        cells += [format_figure(figures.values[c], figures.intervals[c]) for c in TABLE_COLUMNS]
        rows.append(cells)
        if figures.without_match:
            notes.append(
                f"{figures.title}: {figures.without_match} more queries show an item without a "
                "gallery photo; they are not measured."
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    notes.append("In percent, with 95% intervals (clustered by item).")
    return "\n".join([evaluation.task.describe(), "", *lines, *notes])


def format_figure(value: float, interval: tuple[float, float]) -> str:
    """A share in percent with its interval: 61.2 [59.0, 63.3]."""
    if math.isnan(value):
        return "-"
    low, high = interval
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def column_title(name: str) -> str:
    """A figure's name as headings show it."""
    return "mAP" if name == "map" else name.replace("top", "top-")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
