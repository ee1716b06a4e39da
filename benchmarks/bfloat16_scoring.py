"""What scoring with bfloat16 products changes on a trained run: logits, ranks, accuracy.

    python -m benchmarks.bfloat16_scoring --workdir=runs/demo [--queries=400]

The run's queries are ranked twice by the one evaluator, with products in float32 and in
bfloat16 (`eval.score_dtype`). A row has the largest and mean difference of a logit among the first
50 of each query, how much the two lists overlap, how many neighbors of the float32 list change
their order and how far apart they were at most, and both accuracies.
Writes benchmarks/results/bfloat16_scoring_DEVICE.json.
"""

import argparse
from typing import Any

import jax
import numpy as np
from grnet_jax.retrieval.evaluation import Evaluation, Evaluator
from grnet_jax.retrieval.tasks import configured_task

from benchmarks.results_file import ROOT, ResultsFile
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import restore_run

_TOP_K = 50


def main() -> None:
    """Ranks twice, compares, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="of a trained run, as runs/demo")
    parser.add_argument("--queries", type=int, default=400, help="of the test split (400)")
    options = parser.parse_args()
    name = f"bfloat16_scoring_{jax.default_backend()}"
    command = "python -m benchmarks.bfloat16_scoring "
    command += f"--workdir={options.workdir} --queries={options.queries}"
    results = ResultsFile(name, command, ("model", "queries"))
    results.add(measure(options.workdir, options.queries))
    print(format_rows(results.rows))
    print(f"Wrote {results.path.relative_to(ROOT)}")


def measure(workdir: str, queries: int) -> dict[str, Any]:
    """The row of a run."""
    from input_pipeline import load_dataset  # the pipeline is loaded only where it is used

    run, state = restore_run(workdir, make_mesh())
    config = run.config
    config.eval.queries, config.eval.keep_top = queries, _TOP_K
    task = configured_task(load_dataset(config.data), config)
    evaluations = {}
    for dtype in ("float32", "bfloat16"):
        config.eval.score_dtype = dtype
        evaluator = Evaluator(run.matcher, config, run.mesh)
        evaluations[dtype] = evaluator.evaluate(state.variables, task)
    row = {"model": config.name, "queries": queries, "gallery": len(task.gallery_rows)}
    return row | compare(evaluations["float32"], evaluations["bfloat16"])


def compare(exact: Evaluation, rounded: Evaluation) -> dict[str, Any]:
    """How far a rounded evaluation is from the exact one of the same task."""
    differences, overlaps, gaps = [], [], []
    lists = zip(
        exact.ranking.top_rows,
        exact.ranking.top_scores,
        rounded.ranking.top_rows,
        rounded.ranking.top_scores,
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
        key: {name: float(of.figures["all"].values[name]) for name in ("top1", "top20", "map")}
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
        "| model | queries | gallery | logit differs by, at most | on average | top-50 overlap | "
        "neighbors swapped | apart by, at most | top-1, float32 | bfloat16 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        top1 = " | ".join(f"{100 * row[dtype]['top1']:.2f}" for dtype in ("float32", "bfloat16"))
        lines.append(
            f"| {row['model']} | {row['queries']} | {row['gallery']:,} | "
            f"{row['largest_difference']:.3f} | {row['mean_difference']:.4f} | "
            f"{row['top50_overlap']:.4f} | {row['neighbors_swapped']:,} | "
            f"{row['largest_swapped_gap']:.3f} | {top1} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
