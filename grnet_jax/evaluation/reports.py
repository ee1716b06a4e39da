"""A retrieval result as a file and as tables."""

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from grnet_jax.evaluation.breakdowns import break_down
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.evaluation.retrieval_metrics import Calibration, OpenSet, RetrievalMetrics
from grnet_jax.metrics import CalibrationSums
from input_pipeline import write_file

TABLE_COLUMNS = ("top1", "top5", "top20", "top50", "map")
OTHER_COLUMNS = ("mrr", "recall5", "recall20", "map_revisitop", "map_at_r")
_TITLES = {
    "map": "mAP",
    "map_revisitop": "mAP (revisitop)",
    "map_at_r": "MAP@R",
    "mrr": "MRR",
    "landmark_pdj_0.1": "landmark PDJ@0.1",
}


def results_dict(result: RetrievalResult, model: str, step: int) -> dict[str, Any]:
    """The figures as `results.json` holds them; every share and interval in 0..1.

    A figure over no queries is null. "calibration" has a list of [pairs, mean probability, share
    that shows the same item] of the bins that hold any; it is empty where scores are no logits.
    """
    subsets = {}
    for name, figures in result.metrics.items():
        subsets[name] = _figures(figures)
        if figures.open_set:
            subsets[name]["open_set"] = _open_set(figures.open_set)
        if figures.best_match:
            subsets[name]["best_match"] = _calibration(figures.best_match)
    protocol = result.protocol
    best_match = result.metrics["all"].best_match
    reliability = {"all_pairs": result.calibration, "best_match": best_match}
    return {
        "dataset": protocol.dataset,
        "split": protocol.split,
        "gallery_splits": list(protocol.gallery_splits),
        "same_category": bool(protocol.groups[0].category),
        "sampled": protocol.sampled,
        "gallery_sampled": protocol.gallery_sampled,
        "overlaps": dict(protocol.overlaps),
        "processing": result.processing,
        "shortlist": result.shortlist,
        "share_scored": _number(result.share_scored),
        "model": model,
        "step": step,
        "protocols": subsets,
        "breakdowns": {
            kind: {name: _figures(figures) for name, figures in groups.items()}
            for kind, groups in break_down(result).items()
        },
        "calibration": {
            name: _calibration(found) | _bins(found) for name, found in reliability.items() if found
        },
    }


def _figures(figures: RetrievalMetrics) -> dict[str, Any]:
    return {key: _number(value) for key, value in figures.values.items()} | {
        "queries": figures.queries,
        "queries_without_match": figures.without_match,
        "gallery": figures.gallery,
        "title": figures.title,
        "intervals_95": {
            key: [_number(low), _number(high)] for key, (low, high) in figures.intervals.items()
        },
    }


def write_results(directory: epath.Path, results: Mapping[str, Any]) -> str:
    """Writes what `results_dict` made as `results.json` and returns its path."""
    path = directory / "results.json"
    write_file(path, json.dumps(results, indent=2) + "\n")
    return str(path)


def format_table(result: RetrievalResult) -> str:
    """The figures in percent with their 95% intervals, a protocol a line."""
    head = ["protocol", "queries", "gallery", *(column_title(c) for c in TABLE_COLUMNS)]
    rows = [head]
    notes = []
    for figures in result.metrics.values():
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
    notes += describe_scores(result)
    notes.append("In percent, with 95% intervals (clustered by item).")
    return "\n".join([result.describe(), "", *lines, *notes])


def format_breakdowns(result: RetrievalResult) -> str:
    """Returns top-1 and top-20 in percent with their intervals, a group of queries a line."""
    lines = []
    for kind, groups in break_down(result).items():
        lines.append(f"By {kind} of the query: queries, top-1, top-20")
        for name, group in groups.items():
            cells = [
                format_figure(group.values[figure], group.intervals[figure])
                for figure in ("top1", "top20")
                if group.queries
            ]
            lines.append(f"  {name:<24}{group.queries:>8,}  {'  '.join(cells) or '-'}")
    return "\n".join(lines)


def describe_scores(result: RetrievalResult) -> list[str]:
    """In words, how well the scores over all queries tell who has a match, and are calibrated."""
    figures = result.metrics["all"]
    lines = []
    if figures.open_set:
        found = figures.open_set
        area = format_figure(found.auroc, found.interval)
        lines.append(
            f"The best score tells {figures.queries:,} queries with a match from "
            f"{figures.without_match:,} without: area under the ROC curve {area}; where 95% with "
            f"a match pass, {100 * found.fpr_at_95_tpr:.1f}% without pass too."
        )
    if figures.best_match:
        best = figures.best_match
        said = best.equal_width.confidence.sum() / best.pairs
        right = best.equal_width.hits.sum() / best.pairs
        lines.append(
            f"Best matches are given a mean probability of {100 * said:.1f} and are right in "
            f"{100 * right:.1f}; expected calibration error {100 * best.values['ece']:.1f} "
            f"({len(best.equal_width.counts)} bins)."
        )
    return lines


def reliability(sums: CalibrationSums) -> list[tuple[float, float, float]]:
    """Pairs, mean probability and share that shows the same item, of each bin with any pair."""
    return [
        (float(n), float(said / n), float(hits / n))
        for n, hits, said in zip(sums.counts, sums.hits, sums.confidence, strict=True)
        if n
    ]


def format_figure(value: float, interval: tuple[float, float]) -> str:
    """A share in percent with its interval: 61.2 [59.0, 63.3]."""
    if math.isnan(value):
        return "-"
    low, high = interval
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def column_title(name: str) -> str:
    """A figure's name as headings show it."""
    return _TITLES.get(name) or name.replace("_", " ").replace("top", "top-").replace(
        "recall", "recall@"
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _open_set(found: OpenSet) -> dict[str, Any]:
    return {
        "auroc": _number(found.auroc),
        "fpr_at_95_tpr": _number(found.fpr_at_95_tpr),
        "intervals_95": {"auroc": [_number(bound) for bound in found.interval]},
    }


def _calibration(found: Calibration) -> dict[str, Any]:
    numbers: dict[str, Any] = {key: _digits(value) for key, value in found.values.items()}
    if found.brier_interval:
        numbers["intervals_95"] = {"brier": [_digits(bound) for bound in found.brier_interval]}
    return {"pairs": found.pairs} | numbers


def _bins(found: Calibration) -> dict[str, Any]:
    return {
        name: [[int(n), _digits(said), _digits(right)] for n, said, right in reliability(sums)]
        for name, sums in (("equal_width", found.equal_width), ("equal_mass", found.equal_mass))
    }


def _digits(value: float) -> float | None:
    """Six digits: errors over all pairs are small."""
    return None if math.isnan(value) else float(f"{value:.6g}")
