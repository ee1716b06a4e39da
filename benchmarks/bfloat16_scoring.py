"""What scoring with bfloat16 products changes on a trained run: logits, ranks, accuracy.

    python -m benchmarks.bfloat16_scoring --workdir=runs/grnet_synthetic [--queries=400]

The run's queries are ranked twice by the one evaluator, with products in float32 and in
bfloat16 (`eval.search.score_dtype`). A row has the largest and mean difference of a logit among
the first 50 of each query, how much the two lists overlap, how many neighbors of the float32 list
change their order and how far apart they were at most, and both accuracies.
Writes benchmarks/results/bfloat16_scoring_DEVICE.json.
"""

from typing import Any

import jax
import numpy as np

from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from grnet_jax.config import parse_config, to_config_dict
from grnet_jax.evaluation import build_evaluators
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import restore_run

_TOP_K = 50
_HEADER = (
    *("model", "queries", "gallery", "logit differs by, at most", "on average"),
    *("top-50 overlap", "neighbors swapped", "apart by, at most"),
    *("top-1, float32", "bfloat16"),
)


def main() -> None:
    """Ranks twice, compares, and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--workdir", required=True, help="of a run, as runs/grnet_synthetic")
    parser.add_argument("--queries", type=int, default=400, help="of the test split (400)")
    options = parser.parse_args()
    name = f"bfloat16_scoring_{jax.default_backend()}"
    command = "python -m benchmarks.bfloat16_scoring "
    command += f"--workdir={options.workdir} --queries={options.queries}"
    results = ResultsFile(name, command, ("model", "queries"))
    results.add(measure(options.workdir, options.queries))
    results.report(format_rows(results.rows))


def measure(workdir: str, queries: int) -> dict[str, Any]:
    """The row of a run."""
    from input_pipeline import load_dataset  # the pipeline is loaded only where it is used

    run, state = restore_run(workdir, make_mesh())
    dataset, config = load_dataset(run.config.dataset), to_config_dict(run.config)
    config.eval.protocol.queries, config.eval.search.top_k = str(queries), _TOP_K
    results: list[Any] = []
    for dtype in ("float32", "bfloat16"):
        config.eval.search.score_dtype = dtype
        parsed = parse_config(config)
        evaluators = build_evaluators(parsed, run.matcher, run.mesh, dataset, "test")
        results.append(evaluators["retrieval"].run(state.variables))
    gallery = len(results[0].protocol.gallery_rows)
    return {"model": config.name, "queries": queries, "gallery": gallery} | compare(*results)


def compare(exact: RetrievalResult, rounded: RetrievalResult) -> dict[str, Any]:
    """How far a rounded ranking is from the exact one by the same protocol."""
    differences, overlaps, gaps = [], [], []
    lists = zip(
        exact.ranking.indices,
        exact.ranking.scores,
        rounded.ranking.indices,
        rounded.ranking.scores,
        strict=True,
    )
    for rows, scores, other_rows, other_scores in lists:
        both, first, second = np.intersect1d(rows, other_rows, return_indices=True)
        overlaps.append(len(both) / len(rows))
        differences.append(np.abs(scores[first] - other_scores[second]))
        order = np.argsort(first)
        best, ranks = scores[first][order], second[order]
        gaps.append((best[:-1] - best[1:])[ranks[1:] < ranks[:-1]])
    off, swapped = np.concatenate(differences), np.concatenate(gaps)
    metrics = {
        key: {name: of.values[name] for name in ("top1", "top20", "map")}
        for key, of in (("float32", exact), ("bfloat16", rounded))
    }
    return {
        "largest_difference": round(float(off.max()), 4),
        "mean_difference": round(float(off.mean()), 4),
        "top50_overlap": round(float(np.mean(overlaps)), 4),
        "neighbors_swapped": len(swapped),
        "largest_swapped_gap": round(float(swapped.max(initial=0.0)), 4),
        **metrics,
    }


def format_rows(rows: list[dict]) -> str:
    """A Markdown table."""
    lines = [
        [
            row["model"],
            row["queries"],
            f"{row['gallery']:,}",
            f"{row['largest_difference']:.3f}",
            f"{row['mean_difference']:.4f}",
            f"{row['top50_overlap']:.4f}",
            f"{row['neighbors_swapped']:,}",
            f"{row['largest_swapped_gap']:.3f}",
            *(f"{100 * row[dtype]['top1']:.2f}" for dtype in ("float32", "bfloat16")),
        ]
        for row in rows
    ]
    return markdown_table(_HEADER, lines)


if __name__ == "__main__":
    main()
