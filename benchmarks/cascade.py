"""The cascade against scoring all pairs, and what the embeddings' loss does to GRNet itself.

    python -m benchmarks.cascade [--seeds=3]

Through train.py and eval.py, GRNet is trained on the synthetic set, and then embeddings for it,
while GRNet stays as it is; for comparison, with one seed, both in one run. Then test queries of
another draw of the set, whose garments no run saw, are searched for among the shop photos of all
its splits: all pairs first, then shortlists; a shortlist of 1 is the embeddings' own order.
Features are in memory, and times are of ranking alone, after a first pass that compiles it. Recall
is the share of the first 20 of all pairs that the shortlist holds.
Rows are written as they finish to benchmarks/results/cascade.json; at the end docs/cascade.png is
drawn from them.
"""

import argparse
import time
from typing import Any

import numpy as np

from benchmarks import grnet_vs_baseline
from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table
from grnet_jax.config import ProtocolConfig
from grnet_jax.evaluation.protocols import build_protocol
from grnet_jax.evaluation.retrieval import RetrievalEvaluator
from grnet_jax.metrics import top_k_hits
from grnet_jax.search.features import FeatureSubset
from grnet_jax.search.ranking import (
    ExhaustiveSearch,
    GallerySearch,
    RankingResult,
    make_score,
    rank,
)
from grnet_jax.search.reranking import CascadeSearch, make_cascade_scores
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import restore_run
from grnet_jax.visualization.plots import Curve, plot_curves
from input_pipeline import load_dataset
from input_pipeline.config import PrepareOptions

# When embeddings learn: the config, and fields besides its own.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "without": ("grnet", {}),
    "after": ("grnet_cascade", {}),
    "beside": ("grnet", {"model.embedding_dim": 256, "loss.embedding_weight": 0.1}),
}
SHORTLISTS = (1, 25, 50, 100, 200, 400, 800)
_FEW_SHORTLISTS = (1, 200, 400)
_COUNTS = {"top1": 1, "top20": 20, "top50": 50}
_TITLES = {"top1": "top-1", "top20": "top-20", "top50": "top-50"}
_SPECIAL = {0: "all pairs", 1: "embeddings' order"}
_LISTED = 20  # first photos of all pairs, of which the shortlist is asked how many it holds
# Another draw: 3,600 + 150 + 500 shop photos, none of a garment that the run has seen.
_ANOTHER = PrepareOptions(seed=1, items=3600)
_FEW_QUERIES = 64  # that compile what all of them need
_PLOT = "docs/cascade.png"


def main() -> None:
    """Measures what is missing, prints the tables and draws the plot."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of the trained runs (3)")
    parser.add_argument("--queries", type=int, default=400, help="drawn from the test split (400)")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--runs", default="runs/cascade", help="workdirs of the runs")
    options = parser.parse_args()
    command = f"python -m benchmarks.cascade --seeds={options.seeds}"
    results = ResultsFile("cascade", command, ("what", "trained", "seed", "shortlist"))
    if any(row.get("queries", options.queries) != options.queries for row in results.rows):
        parser.error(f"--queries: {results.path.name} has rows of another number: remove it first")
    for seed in range(options.seeds):
        for trained in RECIPES if seed == 0 else ("without", "after"):
            add_rows(results, trained, seed, options)
    plot(results.rows).savefig(ROOT / _PLOT)
    results.report(format_rows(results.rows))
    print(f"Wrote {_PLOT}")


def add_rows(results: ResultsFile, trained: str, seed: int, options: argparse.Namespace) -> None:
    """Trains, evaluates and searches what has no row yet."""
    key: dict[str, Any] = {"trained": trained, "seed": seed}
    workdir = f"{options.runs}/{trained}_{seed}"
    run = results.find(what="run", shortlist=0, **key)
    sizes = [0, *(SHORTLISTS if seed == 0 else _FEW_SHORTLISTS)] if trained != "without" else []
    missing = [s for s in sizes if results.find(what="search", shortlist=s, **key) is None]
    if run is None or (missing and not (ROOT / workdir / "config.json").exists()):
        config, fields = RECIPES[trained]
        if trained == "after":
            fields = {"train.init_from": f"{options.runs}/without_{seed}"}
        measured = grnet_vs_baseline.measure(config, seed, options.data_dir, workdir, fields)
        metrics = {name: measured["protocols"]["all"][name] for name in _COUNTS}
        row = {"step": measured["step"], "config": config, "fields": fields, **metrics}
        results.add({"what": "run", **key, "shortlist": 0, **row})
    if not missing:
        return
    search = Search(str(ROOT / workdir), options.data_dir, options.queries)
    for size in missing:
        row = search.measure(size)
        all_pairs = row if not size else _all_pairs(results.rows, trained, seed)
        speedup = round(all_pairs["cpu_seconds"] / row["cpu_seconds"], 2)
        results.add({"what": "search", **key, "shortlist": size, **row, "speedup": speedup})


class Search:
    """A run's queries and gallery in memory, ranked by all pairs or by shortlists."""

    def __init__(self, workdir: str, data_dir: str, queries: int):
        self._mesh = make_mesh()
        run, state = restore_run(workdir, self._mesh)
        dataset = run.config.dataset.model_copy(update={"dir": f"{data_dir}/another_draw"})
        options = ProtocolConfig(gallery="all", queries=str(queries))
        protocol = build_protocol(load_dataset(dataset, _ANOTHER), run.config.image, options)
        evaluator = RetrievalEvaluator(run.config, run.matcher, self._mesh, protocol)
        self._positives = protocol.positives
        self._query, self._gallery = (
            evaluator.features(state.variables, protocol.images, rows, what)
            for what, rows in (("queries", protocol.query_rows), ("gallery", protocol.gallery_rows))
        )
        self._score = make_score(run.matcher, self._mesh)(state.variables)
        self._cascade_scores = make_cascade_scores(run.matcher, self._mesh)(state.variables)
        self._first: np.ndarray | None = None

    def measure(self, shortlist: int) -> dict[str, Any]:
        """The row of this shortlist; of 0, all pairs."""
        self._rank(shortlist, _FEW_QUERIES)
        clock, processor = time.perf_counter(), time.process_time()
        ranking = self._rank(shortlist)
        seconds = time.perf_counter() - clock, time.process_time() - processor
        if self._first is None:
            self._first = (self._rank(0) if shortlist else ranking).indices
        row: dict[str, Any] = {"queries": len(self._query), "gallery": len(self._gallery)}
        row["share_scored"] = round((shortlist or len(self._gallery)) / len(self._gallery), 4)
        for name, count in _COUNTS.items():
            row[name] = round(float(np.mean(top_k_hits(ranking.ranks, count))), 4)
        listed = [
            np.isin(best, rows).mean()
            for best, rows in zip(self._first, ranking.indices, strict=True)
        ]
        row[f"recall{_LISTED}"] = round(float(np.mean(listed)), 4)
        return row | {"seconds": round(seconds[0], 2), "cpu_seconds": round(seconds[1], 2)}

    def _rank(self, shortlist: int, queries: int | None = None) -> RankingResult:
        """The first queries' ranking, or all; by a shortlist all of it is listed."""
        search: GallerySearch
        if shortlist:
            search = CascadeSearch(
                self._cascade_scores, self._gallery, self._mesh, shortlist, top_k=shortlist
            )
        else:
            search = ExhaustiveSearch(self._score, self._gallery, self._mesh, _LISTED)
        rows = np.arange(len(self._query))[:queries]
        return rank(search, FeatureSubset(self._query, rows), self._positives[rows])


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Markdown tables: searches beside all pairs, and the runs' own figures."""
    header = ["embeddings learn", "seed", *_TITLES.values()]
    searches, runs = [], []
    for row in sorted((row for row in rows if row["what"] == "search"), key=_order):
        cells = [f"{row['trained']} GRNet", row["seed"]]
        cells.append(_SPECIAL.get(row["shortlist"]) or f"{row['shortlist']:,}")
        cells += [f"{100 * row[name]:.1f}" for name in ("share_scored", *_COUNTS)]
        cells += [f"{100 * row[f'recall{_LISTED}']:.1f}", f"{row['cpu_seconds']:.1f}"]
        faster = f"{row['speedup']:.1f}" if row["shortlist"] else "-"
        searches.append([*cells, faster])
    for row in sorted((row for row in rows if row["what"] == "run"), key=_order):
        learned = "not at all" if row["trained"] == "without" else f"{row['trained']} GRNet"
        runs.append([learned, row["seed"], *(f"{100 * row[name]:.1f}" for name in _COUNTS)])
    more = [f"first {_LISTED} found, %", "s", "times faster"]
    table = markdown_table(
        [*header[:2], "shortlist", "share scored, %", *header[2:], *more], searches
    )
    return f"{table}\n{markdown_table(header, runs)}"


def _order(row: dict[str, Any]) -> tuple:
    order = list(RECIPES).index(row["trained"])
    return order, row["seed"], row["shortlist"] or np.inf


def plot(rows: list[dict[str, Any]]) -> Any:
    """Plots the first seed's searches by embeddings that learned after GRNet."""
    all_pairs = _all_pairs(rows, "after", 0)
    key = ("search", "after", 0)
    searches = [row for row in rows if (row["what"], row["trained"], row["seed"]) == key]
    searches = sorted((row for row in searches if row["shortlist"] > 1), key=_order)
    sizes = np.array([row["shortlist"] for row in searches])

    def curve(label: str, name: str, of: float = 1.0) -> Curve:
        return Curve(label, sizes, np.array([row[name] for row in searches]) / of)

    panels = {
        "top-k accuracy": [
            curve(f"{title} (all pairs: {all_pairs[name]:.1%})", name)
            for name, title in _TITLES.items()
        ],
        "recall of the shortlist": [curve(f"first {_LISTED} of all pairs", f"recall{_LISTED}")],
        "time, % of ranking all pairs": [curve("ranking", "cpu_seconds", all_pairs["cpu_seconds"])],
    }
    title = (
        f"{all_pairs['queries']:,} queries of the synthetic set among {all_pairs['gallery']:,} "
        "shop photos"
    )
    return plot_curves(panels, title, "images in a shortlist", log_x=True)


def _all_pairs(rows: list[dict[str, Any]], trained: str, seed: int) -> dict[str, Any]:
    key = ("search", trained, seed, 0)
    return next(
        row for row in rows if (row["what"], row["trained"], row["seed"], row["shortlist"]) == key
    )


if __name__ == "__main__":
    main()
