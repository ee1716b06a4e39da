"""What post-processing does to accuracy on the synthetic set's test split.

    python -m benchmarks.postprocessing [--run=runs/grnet_vs_baseline/grnet_1] [--queries=500]

The run is one of `python -m benchmarks.grnet_vs_baseline`. Systems: the color histogram, the
trained run's embeddings compared by their inner product, and the run itself, which scores regions
and takes flips alone. Nothing was tuned. Writes benchmarks/results/postprocessing.json, a row as it
finishes; run again, the command goes on with the rows that are missing.
"""

from typing import Any

import flax.linen as nn
import jax

from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from configs import color_histogram
from grnet_jax.config import Config, EvalConfig, ProtocolConfig, SearchConfig, parse_config
from grnet_jax.evaluation import build_evaluators
from grnet_jax.models import EmbeddingModel, Features
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import build_run, restore_run
from input_pipeline import load_dataset

_SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "whitening by the gallery, 64": {"whitening": "gallery", "whitening_dim": 64},
    "expansion, 3": {"query_expansion": 3},
    "expansion, 3, alpha 3": {"query_expansion": 3, "query_expansion_alpha": 3.0},
    "flip": {"flip_average": True},
    "whitening by train, 64": {"whitening": "train", "whitening_dim": 64},
}
_COLUMNS = {"top1": "top-1", "top5": "top-5", "top20": "top-20", "map": "mAP"}


class EmbeddingMatcher(EmbeddingModel):
    """Another matcher's embeddings, scored by their inner product."""

    matcher: nn.Module

    def embed(self, photos: jax.Array, train: bool = False) -> Features:
        """The other's features [n, d] without regions."""
        features: Any = self.matcher.embed(photos, train)
        return Features(features.embedding)


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", default="runs/grnet_vs_baseline/grnet_1", help="workdir of GRNet")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--queries", type=int, default=500, help="drawn; 0 for all (500)")
    options = parser.parse_args()
    command = f"python -m benchmarks.postprocessing --queries={options.queries}"
    results = ResultsFile("postprocessing", command, ("system", "setting"))
    systems = _systems(options.run)
    # Scoring pairs takes by far the longest, and is left for last.
    pairs = [(name, system) for name in _SETTINGS for system in systems]
    pairs.sort(key=lambda pair: pair[1] == "GRNet")
    for name, system in pairs:
        matcher, variables, config, settings = systems[system]
        if name in settings and results.find(system=system, setting=name) is None:
            print(f"{system}: {name}", flush=True)
            dataset = config.dataset.model_copy(update={"dir": options.data_dir})
            search = SearchConfig(**_SETTINGS[name])
            evaluation = EvalConfig(protocol=ProtocolConfig(queries=options.queries), search=search)
            config = config.model_copy(update={"dataset": dataset, "eval": evaluation})
            measured = measure(matcher, variables, config)
            results.add({"system": system, "setting": name, "fields": _SETTINGS[name], **measured})
    results.report(format_rows(results.rows))


def _systems(workdir: str) -> dict[str, tuple[nn.Module, Any, Config, list[str]]]:
    """By name: matcher, variables, config and the settings that touch it."""
    every = list(_SETTINGS)
    floor = build_run(parse_config(color_histogram.get_config()), make_mesh())
    run, state = restore_run(workdir, make_mesh())
    inside = {name: {"matcher": part} for name, part in state.variables.items()}
    return {
        "color histogram": (floor.matcher, {}, floor.config, every),
        "GRNet's embedding": (EmbeddingMatcher(run.matcher), inside, run.config, every),
        "GRNet": (run.matcher, state.variables, run.config, ["none", "flip"]),
    }


def measure(matcher: nn.Module, variables: Any, config: Config) -> dict[str, Any]:
    """The metrics over all queries of the test split."""
    dataset = load_dataset(config.dataset)
    evaluators = build_evaluators(config, matcher, make_mesh(), dataset, "test")
    result: Any = evaluators["retrieval"].run(variables)
    metrics = result.metrics["all"]
    return {
        "queries": metrics.queries,
        "gallery": metrics.gallery,
        "metrics": {name: round(metrics.values[name], 6) for name in _COLUMNS},
        "intervals_95": {name: [*map(float, metrics.intervals[name])] for name in _COLUMNS},
    }


def format_rows(rows: list[dict]) -> str:
    """A Markdown table in percent, with top-1's interval."""
    lines = []
    order = {name: number for number, name in enumerate(_SETTINGS)}
    systems = list(dict.fromkeys(row["system"] for row in rows))
    for row in sorted(rows, key=lambda row: (systems.index(row["system"]), order[row["setting"]])):
        low, high = (f"{100 * bound:.1f}" for bound in row["intervals_95"]["top1"])
        cells = [f"{100 * row['metrics'][name]:.1f}" for name in _COLUMNS]
        cells[0] += f" [{low}, {high}]"
        lines.append([row["system"], row["setting"], *cells])
    return markdown_table(("system", "post-processing", *_COLUMNS.values()), lines)


if __name__ == "__main__":
    main()
