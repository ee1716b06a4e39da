"""Compares evaluated runs, query by query.

    python -m grnet_jax.compare runs/baseline runs/grnet
    python -m grnet_jax.compare runs/baseline runs/a runs/b --metric=top1,map --subset=hard_view
    python -m grnet_jax.compare runs/baseline runs/grnet --output=runs/comparison

Reads results.json and ranks.parquet, which eval.py writes to the workdir or its --output. Every run
is compared with the first on the queries that all of them have: differences of the metrics with 95%
intervals (paired bootstrap over items), how often the item is ranked higher, and for which queries
the most.
"""

import argparse
import io
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from etils import epath

from grnet_jax.errors import ArgumentParser, InputError, check_at_least, program_name
from grnet_jax.evaluation.reports import align_columns, column_title, format_figure, pad_ranks
from grnet_jax.evaluation.retrieval_metrics import METRIC_NAMES, query_metrics
from grnet_jax.metrics import clustered_intervals, paired_bootstrap
from grnet_jax.runtime import session
from input_pipeline import check_folder, read_object, to_path, write_file

_RESAMPLES = 10_000
_SEED = 0
# Were fewer items to differ, even all in one direction, chance would do it: 2 * 0.5**5 > 5%.
_LEAST_ITEMS = 6
_KEYS = ["photo_id", "item_id"]
_SUBSETS = ("easy", "hard_view", "hard_occlusion", "hard_cropping")
_COLUMNS = [*_KEYS, "category", *_SUBSETS, "rank", "ranks"]


class EvaluatedRun(NamedTuple):
    """What eval.py wrote of a run.

    Attributes:
      name: its folder, as it was given.
      protocol: what ranks depend on besides the run, of results.json.
      queries: ranks.parquet, a row per query; its index tells queries apart.
    """

    name: str
    protocol: dict[str, Any]
    queries: pd.DataFrame


class Comparison(NamedTuple):
    """Runs on the same n queries, all against the first.

    Attributes:
      names: of the r runs.
      metrics: names of the m metrics.
      queries: photo_id, item_id and category of the queries.
      ranks: int [r, n], of the first positive.
      values: float64 [r, m].
      intervals: float64 [r, m, 2], 95% intervals of the values.
      differences: float64 [r - 1, m, 2], 95% intervals of the values of the other runs minus the
        first's.
      items: int [r - 1, m], how many items' sums differ from the first's.
      notes: which queries are left out.
    """

    names: list[str]
    metrics: list[str]
    queries: pd.DataFrame
    ranks: np.ndarray
    values: np.ndarray
    intervals: np.ndarray
    differences: np.ndarray
    items: np.ndarray
    notes: list[str]

    def verdict(self, run: int, metric: int) -> str:
        """Returns "higher" or "lower" where the interval excludes 0; else why neither is shown."""
        low, high = self.differences[run - 1, metric]
        if not (low > 0 or high < 0):  # nor of NaN
            return "no difference shown"
        if self.items[run - 1, metric] < _LEAST_ITEMS:
            return f"no difference shown (fewer than {_LEAST_ITEMS} items differ)"
        return "higher" if low > 0 else "lower"


def read_run(name: str) -> EvaluatedRun:
    """Reads the files that eval.py wrote to a folder.

    Raises:
      InputError: a file is missing or damaged, or they do not belong together.
    """
    folder = to_path(name, "RUN")
    path = folder / "ranks.parquet"
    if not path.exists():
        raise InputError(
            f"{path}: no such file; {program_name('eval')} --workdir={shlex.quote(name)} writes it"
        )
    try:
        results = read_object(folder / "results.json", "what eval.py wrote")
        everything = results["protocols"]["all"]
        protocol = {name: results[name] for name in ("dataset", "split", "same_category")}
        protocol["gallery"] = everything["gallery"]  # how many images
        protocol["gallery_fingerprint"] = results["gallery_fingerprint"]
        count = everything["queries"] + everything["queries_without_match"]
        queries = pd.read_parquet(io.BytesIO(path.read_bytes()), columns=_COLUMNS)
    except InputError:
        raise
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder / 'results.json'}: damaged or older (no field {error}): run eval.py again"
        ) from error
    except Exception as error:  # a damaged file raises nearly anything
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: damaged ({reason})") from error
    if count != len(queries):
        raise InputError(
            f"{path}: {len(queries):,} queries, but results.json has {count:,}: expected files of "
            "one evaluation"
        )
    number = queries.groupby(_KEYS).cumcount()  # a photo may show an item twice
    queries.index = pd.MultiIndex.from_frame(queries[_KEYS].assign(number=number))
    return EvaluatedRun(name, protocol, queries)


def check_protocols(runs: Sequence[EvaluatedRun]) -> None:
    """Raises InputError where a run was measured by another protocol than the first."""
    first = runs[0]
    for run in runs[1:]:
        for field, expected in first.protocol.items():
            if (found := run.protocol[field]) != expected:
                raise InputError(
                    f"{run.name}: {field}={found!r}, but {first.name} has {expected!r}; expected "
                    "runs evaluated on the same data set, split and gallery"
                )


def compare(runs: Sequence[EvaluatedRun], metrics: Sequence[str], subset: str) -> Comparison:
    """Compares runs with the first on the queries of a subset that they all have.

    Args:
      runs: two or more, of one protocol.
      metrics: of `METRIC_NAMES`.
      subset: "all", one of FindFashion's four, or "category:NAME".

    Raises:
      InputError: there is no such subset, or no query that all runs have and measure.
    """
    shared = runs[0].queries.index
    for run in runs[1:]:
        shared = shared[shared.isin(run.queries.index)]
        if shared.empty:
            raise InputError(f"{run.name}: no query in common with {runs[0].name}")
    notes = [
        f"{run.name}: {len(run.queries) - len(shared):,} more queries, which not all runs have, "
        "are left out."
        for run in runs
        if len(run.queries) > len(shared)
    ]
    tables = [run.queries.loc[shared] for run in runs]
    chosen = _in_subset(tables[0], subset)
    ranks = np.stack([table["rank"].to_numpy() for table in tables])
    measured = chosen & (ranks > 0).all(axis=0)
    if unmatched := int(chosen.sum() - measured.sum()):
        notes.append(f"{unmatched:,} queries without a match in the gallery are left out.")
    if not measured.any():
        raise InputError(f"--subset={subset}: runs have no query of it with a match in common")
    queries = tables[0].loc[measured, [*_KEYS, "category"]].reset_index(drop=True)
    columns = [METRIC_NAMES.index(name) for name in metrics]
    values = np.stack([query_metrics(pad_ranks(one["ranks"])) for one in tables])
    values = values[:, measured][..., columns].astype(np.float64)
    items = pd.factorize(queries["item_id"], sort=True)[0]
    everyone = np.ones((1, len(items)), bool)
    return Comparison(
        names=_unique_names([run.name for run in runs]),
        metrics=list(metrics),
        queries=queries,
        ranks=ranks[:, measured],
        values=values.mean(axis=1),
        intervals=np.stack([clustered_intervals(one, items, everyone)[0] for one in values]),
        differences=np.stack(
            [paired_bootstrap(one, values[0], items, _RESAMPLES, _SEED) for one in values[1:]]
        ),
        items=np.stack([_count_differing(one - values[0], items) for one in values[1:]]),
        notes=notes,
    )


def _in_subset(queries: pd.DataFrame, subset: str) -> np.ndarray:
    kind, _, category = subset.partition(":")
    if subset == "all":
        return np.ones(len(queries), bool)
    if subset in _SUBSETS:
        return queries[subset].to_numpy(bool)
    if kind == "category" and (queries["category"] == category).any():
        return (queries["category"] == category).to_numpy()
    names = ", ".join(sorted({f"category:{name}" for name in queries["category"] if name})[:20])
    raise InputError(
        f"--subset={subset}: expected one of all, {', '.join(_SUBSETS)}{', ' * bool(names)}{names}"
    )


def _count_differing(differences: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Counts the items whose sums of differences are not 0, int [m]."""
    sums = np.stack([np.bincount(items, column) for column in differences.T])
    return np.sum(np.abs(sums) > 1e-12, axis=1)


def _unique_names(names: Sequence[str]) -> list[str]:
    """Returns the names; what is there before has its number behind it."""
    seen = [list(names[:place]).count(name) for place, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, seen, strict=True)]


def format_comparison(found: Comparison, protocol: dict[str, Any], subset: str, top: int) -> str:
    """Returns the tables for the terminal.

    Args:
      found: the comparison.
      protocol: of the runs.
      subset: of the queries.
      top: how many queries are listed that a run ranks highest above the other.
    """
    titles = [column_title(name) for name in found.metrics]
    items = found.queries["item_id"].nunique()
    rows = [["run", *titles]]
    for name, *cells in zip(found.names, found.values, found.intervals, strict=True):
        rows.append([name, *map(format_figure, *cells)])
    lines = [
        f"{protocol['dataset']}, {protocol['split']} split, {subset}: "
        f"{len(found.queries):,} queries of {items:,} items that all runs have.",
        *found.notes,
        "",
        *align_columns(rows),
        "In percent, with 95% intervals (clustered by item).",
        "",
        *_format_differences(found, titles),
    ]
    for run in range(1, len(found.names)):
        lines += ["", *_format_run(found, run, titles, top)]
    return "\n".join(lines)


def _format_differences(found: Comparison, titles: Sequence[str]) -> Iterator[str]:
    rows = [[f"minus {found.names[0]}", *titles]]
    for run, intervals in enumerate(found.differences, 1):
        values = found.values[run] - found.values[0]
        cells = [
            f"{value:+.2f} " + ("[-]" if np.isnan(low) else f"[{low:+.2f}, {high:+.2f}]")
            for value, (low, high) in zip(100 * values, 100 * intervals, strict=True)
        ]
        rows.append([found.names[run], *cells])
    yield from align_columns(rows)
    yield (
        f"In percentage points, with 95% intervals (paired bootstrap over items, {_RESAMPLES:,} "
        f"resamples, seed {_SEED})."
    )


def _format_run(found: Comparison, run: int, titles: Sequence[str], top: int) -> Iterator[str]:
    """Yields what is shown of a run against the first, and the queries that differ most."""
    name, first = found.names[run], found.names[0]
    said: dict[str, list[str]] = {}
    for metric, title in enumerate(titles):
        said.setdefault(found.verdict(run, metric), []).append(title)
    verdicts = "; ".join(f"{what} in {', '.join(names)}" for what, names in said.items())
    yield f"{name} against {first}: {verdicts}."
    ratio = _rank_ratios(found, run)
    yield (
        f"It ranks the item higher for {(ratio > 0).sum():,} queries, lower for "
        f"{(ratio < 0).sum():,}, equally for {(ratio == 0).sum():,}."
    )
    for sign, which in ((1, "higher"), (-1, "lower")):
        order = np.argsort(-sign * ratio, kind="stable")[:top]
        order = order[sign * ratio[order] > 0]
        if len(order):
            listed = found.queries.iloc[order]
            rows = [["query", "item", "category", f"rank in {name}", f"in {first}"]]
            ranks = (map(str, found.ranks[one, order]) for one in (run, 0))
            rows += map(list, zip(*(listed[c] for c in listed), *ranks, strict=True))
            yield from ("", f"Ranked {which} by {name}, the most first:", *align_columns(rows))


def _rank_ratios(found: Comparison, run: int) -> np.ndarray:
    """Returns the logarithms of the first run's ranks by the run's, [n]; above 0 it is better."""
    return np.log(found.ranks[0]) - np.log(found.ranks[run])


def write_comparison(directory: epath.Path, found: Comparison, subset: str) -> list[str]:
    """Writes `comparison.json` and each query's ranks as `comparison.csv`; returns their paths."""
    content = {
        "subset": subset,
        "queries": len(found.queries),
        "items": found.queries["item_id"].nunique(),
        "notes": found.notes,
        "rows": [
            _row(found, run, metric)
            for run in range(len(found.names))
            for metric in range(len(found.metrics))
        ],
    }
    ranks = pd.DataFrame(found.ranks.T, columns=[f"rank in {name}" for name in found.names])
    files = {
        "comparison.json": json.dumps(content, indent=2) + "\n",
        "comparison.csv": pd.concat([found.queries, ranks], axis=1).to_csv(index=False),
    }
    for name, text in files.items():
        write_file(directory / name, text)
    return [str(directory / name) for name in files]


def _row(found: Comparison, run: int, metric: int) -> dict[str, Any]:
    value, bounds = found.values[run, metric], found.intervals[run, metric]
    row: dict[str, Any] = {"run": found.names[run], "metric": found.metrics[metric]}
    row |= {"value": round(value, 6), "interval_95": bounds.round(6).tolist()}
    if run:
        bounds = found.differences[run - 1, metric].round(6).tolist()
        row["difference"] = round(value - found.values[0, metric], 6)
        row["difference_interval_95"] = [None if np.isnan(bound) else bound for bound in bounds]
        row["verdict"] = found.verdict(run, metric)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be busy with training
    with session():
        check_at_least("--top", options.top, 0)
        metrics = options.metric.split(",")
        for name in metrics:
            if name not in METRIC_NAMES:
                raise InputError(f"--metric={name}: expected some of {', '.join(METRIC_NAMES)}")
        if len(options.runs) < 2:
            raise InputError(f"{options.runs[0]}: one run; expected two or more to compare")
        output = to_path(options.output, "--output") if options.output else None
        if output:
            check_folder(output)
        runs = [read_run(name) for name in options.runs]
        check_protocols(runs)
        found = compare(runs, metrics, options.subset)
        print(format_comparison(found, runs[0].protocol, options.subset, options.top))
        if output:
            written = write_comparison(output, found, options.subset)
            print("\n" + "\n".join(f"Wrote {path}" for path in written))
            print(f"Next: open {written[-1]} in a spreadsheet, or with pandas")
        else:
            print("\nNext: --output=DIR writes this and every query's ranks to files")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.compare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folder or bucket that eval.py wrote to")
    add(
        "--metric",
        default="top1,top5,top20,map",
        help=f"joined by commas: {', '.join(METRIC_NAMES)} (top1,top5,top20,map)",
    )
    add(
        "--subset",
        default="all",
        help=f"of the queries: all, {', '.join(_SUBSETS)} or category:NAME (all)",
    )
    add("--output", default="", help="where to write comparison.json and comparison.csv (nowhere)")
    add("--top", type=int, default=5, help="queries to list that differ most, each way (5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
