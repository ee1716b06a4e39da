"""A retrieval result as files and as tables."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from grnet_jax.evaluation.breakdowns import break_down
from grnet_jax.evaluation.protocols import Protocol
from grnet_jax.evaluation.recognition import json_number
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.evaluation.retrieval_metrics import RetrievalMetrics
from grnet_jax.metrics import BINS, SHOWN, Calibration, ListProbabilities, OpenSet
from grnet_jax.search.fingerprints import fingerprint
from input_pipeline import query_subsets, write_file

TABLE_COLUMNS = ("top1", "top5", "top20", "top50", "map")
OTHER_COLUMNS = ("mrr", "recall5", "recall20", "map_revisitop", "map_at_r")
_TITLES = {
    "map": "mAP",
    "map_revisitop": "mAP (revisitop)",
    "map_at_r": "MAP@R",
    "mrr": "MRR",
    "landmark_pdj_0.1": "landmark PDJ@0.1",
}


def results_dict(
    result: RetrievalResult, model: str, step: int, provenance: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The figures as `results.json` holds them; every share and interval in 0..1.

    A figure over no queries is null. "calibration" has the two numbers of probabilities, the length
    of the lists that they are of, and how good they are: with a list of [results, mean probability,
    share that shows the same item] of the bins that hold any.
    """
    subsets = {}
    for name, figures in result.metrics.items():
        subsets[name] = _figures(figures)
        if figures.open_set:
            subsets[name]["open_set"] = _open_set(figures.open_set)
        if figures.best_match:
            subsets[name]["best_match"] = _calibration(figures.best_match)
    protocol = result.protocol
    return {
        "dataset": protocol.dataset,
        "split": protocol.split,
        "gallery_splits": list(protocol.gallery_splits),
        "gallery_fingerprint": _gallery_fingerprint(protocol),
        "same_category": bool(protocol.groups[0].category),
        "sampled": protocol.sampled,
        "gallery_sampled": protocol.gallery_sampled,
        "overlaps": dict(protocol.overlaps),
        "processing": result.processing,
        "shortlist": result.shortlist,
        "share_scored": json_number(result.share_scored),
        "model": model,
        "step": step,
        "provenance": dict(provenance or {}),
        "protocols": subsets,
        "breakdowns": {
            kind: {name: _figures(figures) for name, figures in groups.items()}
            for kind, groups in break_down(result).items()
        },
        "calibration": _probabilities(result.probabilities) if result.probabilities else {},
    }


def _figures(figures: RetrievalMetrics) -> dict[str, Any]:
    return {key: json_number(value) for key, value in figures.values.items()} | {
        "queries": figures.queries,
        "queries_without_match": figures.without_match,
        "gallery": figures.gallery,
        "title": figures.title,
        "intervals_95": {
            key: [json_number(low), json_number(high)]
            for key, (low, high) in figures.intervals.items()
        },
    }


def write_results(directory: epath.Path, results: Mapping[str, Any]) -> str:
    """Writes what `results_dict` made as `results.json` and returns its path."""
    path = directory / "results.json"
    write_file(path, json.dumps(results, indent=2) + "\n")
    return str(path)


def query_table(result: RetrievalResult) -> pd.DataFrame:
    """Returns a row per query, as `ranks.parquet` holds it; docs/evaluation.md has the columns."""
    protocol, ranking = result.protocol, result.ranking
    index, rows = protocol.images.index, protocol.query_rows
    listed, scores = ranking.indices, ranking.scores
    own = np.zeros(listed.shape, bool)
    for column in protocol.positives.T:
        own |= (listed == column[:, None]) & (listed >= 0)
    found = np.take_along_axis(scores, own.argmax(axis=1)[:, None], axis=1)[:, 0]
    categories = np.array([*index.categories, ""], object)  # -1 is unknown
    top_photos = index.photo_id[protocol.gallery_rows[listed[:, 0]]]
    others = ranking.ranks[:, :0] if ranking.other_ranks is None else ranking.other_ranks
    return pd.DataFrame(
        {
            "photo_id": index.photo_id[rows].astype(object),
            "item_id": index.items[index.item[rows]].astype(object),
            "category": categories[index.category[rows]],
            **query_subsets(index.view[rows], index.occluded[rows], index.cropped[rows]),
            "rank": ranking.ranks[:, 0],
            "score": np.where(own.any(axis=1), found, np.nan),
            "top_photo_id": np.where(listed[:, 0] < 0, "", top_photos).astype(object),
            "top_score": np.where(listed[:, 0] < 0, np.nan, scores[:, 0]),
            "ranks": [one[one > 0] for one in ranking.ranks],
            "identical_ranks": [one[one > 0] for one in others],
        }
    )


def write_ranks(directory: epath.Path, table: pd.DataFrame) -> str:
    """Writes what `query_table` made as `ranks.parquet` and returns its path."""
    path, buffer = directory / "ranks.parquet", io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    write_file(path, buffer.getvalue())
    return str(path)


def pad_ranks(ranks: Sequence[np.ndarray]) -> np.ndarray:
    """Returns int32 [q, p >= 1] of a column of `query_table`, padded with 0 as metrics take it."""
    counts = np.array([len(one) for one in ranks], int)
    padded = np.zeros((len(counts), max(counts.max(initial=1), 1)), np.int32)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = np.concatenate([*ranks, []])
    return padded


def _gallery_fingerprint(protocol: Protocol) -> str:
    """Of the gallery's images and items, in any order and whatever other images there are."""
    index, rows = protocol.images.index, protocol.gallery_rows
    # Numbers of contents are in the order of digests: so they are among these images alone too.
    content = np.unique(index.content[rows], return_inverse=True)[1]
    items = index.items[index.item[rows]]
    listed = zip(index.photo_id[rows].tolist(), items.tolist(), content.tolist(), strict=True)
    return fingerprint([sorted(listed)])


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
    notes += describe_scores(result)
    notes.append("In percent, with 95% intervals (clustered by item).")
    return "\n".join([result.describe(), "", *align_columns(rows), *notes])


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, a rule below the first: the first column left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


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
        counts, said, right = best.equal_width.T
        said, right = (100 * np.average(column, weights=counts) for column in (said, right))
        lines.append(
            f"Best matches are given a mean probability of {said:.1f} and are right in "
            f"{right:.1f}; expected calibration error {100 * best.values['ece']:.1f} ({BINS} bins)."
        )
    return lines


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


def _open_set(found: OpenSet) -> dict[str, Any]:
    return {
        "auroc": json_number(found.auroc),
        "fpr_at_95_tpr": json_number(found.fpr_at_95_tpr),
        "intervals_95": {"auroc": [json_number(bound) for bound in found.interval]},
    }


def _probabilities(found: ListProbabilities) -> dict[str, Any]:
    measured = {"best_match": found.measure(found.there[:, 0], 1)}
    measured["shown"] = found.measure(found.there[:, 0], SHOWN)
    return {"scale": found.fitted.scale, "none": found.fitted.none, "listed": found.p.shape[1]} | {
        name: _calibration(one) | _bins(one) for name, one in measured.items() if one
    }


def _calibration(found: Calibration) -> dict[str, Any]:
    numbers: dict[str, Any] = {key: _digits(value) for key, value in found.values.items()}
    numbers["intervals_95"] = {"brier": [_digits(bound) for bound in found.brier_interval]}
    return {"results": found.results} | numbers


def _bins(found: Calibration) -> dict[str, Any]:
    return {
        name: [[int(n), _digits(said), _digits(right)] for n, said, right in bins.tolist()]
        for name, bins in (("equal_width", found.equal_width), ("equal_mass", found.equal_mass))
    }


def _digits(value: float) -> float | None:
    """Six digits: errors over all pairs are small."""
    return None if math.isnan(value) else float(f"{value:.6g}")
