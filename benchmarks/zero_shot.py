r"""Searching without training: ways to pool frozen ImageNet features, and the color histogram.

    python -m benchmarks.zero_shot --manifest=photos/manifest.csv --photos="what they are" \
      [--trained=runs/demo]

Of EfficientNet-Lite0, at 128 and 224 pixels: the mean of the last map, its generalized mean, 4x4
cells of the map of stride 16, and each with a color histogram beside it. On the manifest's test
photos, on 400 queries of the synthetic set, and on 400 of garments in four colors each, a query
ranked among the four. Runs that were trained on the
synthetic set stand beside them on its two. A row is written as it finishes; run again, the
command goes on with the rows that are missing. Writes benchmarks/results/zero_shot.json.
"""

from typing import Any

from benchmarks.own_photos import manifest_parser
from benchmarks.reproduce.printing import format_cell
from benchmarks.results_file import ResultsFile, markdown_table
from grnet_jax.config import Config, make_config, parse_config
from grnet_jax.evaluation import build_evaluators
from grnet_jax.evaluation.reports import column_title, results_dict
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import Run, restore_matcher
from grnet_jax.training.init_from import start_untrained, zero_shot
from grnet_jax.training.state import TrainState
from input_pipeline import load_dataset

_QUERIES = 400
_METRICS = ("top1", "top5", "top20", "map")
_HISTOGRAM = "color histogram"
# What differs from configs/zero_shot.py.
_POOLINGS: dict[str, dict[str, Any]] = {
    "mean of the last map": {"color_weight": 0.0},
    "generalized mean of the last map": {"color_weight": 0.0, "pooling": "gem"},
    "4x4 cells of the map of stride 16": {"color_weight": 0.0, "pooling": "grid"},
    "mean of the last map, color": {},
    "4x4 cells of the map of stride 16, color": {"pooling": "grid"},
}


def main() -> None:
    """Measures the rows that are missing and prints the table."""
    parser = manifest_parser(__doc__, "", "")
    parser.add_argument("--trained", default="", help="workdirs of runs, joined by commas")
    options = parser.parse_args()
    command = "python -m benchmarks.zero_shot --manifest=photos/manifest.csv"
    results = ResultsFile("zero_shot", command, ("photos", "features", "pixels"))
    own = {"name": "manifest", "source": options.manifest, "dir": options.data_dir}
    synthetic = {"name": "synthetic", "dir": options.data_dir}
    colors = synthetic | {"source": "colors"}
    sets = {options.photos: own, "synthetic set": synthetic, "colors of a garment": colors}
    for photos, dataset in sets.items():
        for features in (_HISTOGRAM, *_POOLINGS):
            for pixels in (128, 224):
                row = {"photos": photos, "features": features, "pixels": pixels}
                if results.find(**row) is None:
                    results.add({**row, **measure(_config(features, pixels, dataset))})
        for workdir in filter(None, options.trained.split(",")) if dataset is not own else ():
            run, state = restore_matcher(workdir, make_mesh())
            pixels = run.config.image.size
            row = {"photos": photos, "features": f"trained {run.config.name}", "pixels": pixels}
            if results.find(**row) is None:
                config = _on(run.config.model_dump(), dataset)
                results.add({**row, **measure(config, (run, state))})
    results.report(format_rows(results.rows))


def _config(features: str, pixels: int, dataset: dict[str, Any]) -> Config:
    sections = zero_shot("efficientnet_lite0")
    if features == _HISTOGRAM:
        sections["model"] = {"name": "color_histogram"}
    else:
        sections["model"] |= _POOLINGS[features]
        if sections["model"]["pooling"] == "grid":
            sections["model"]["backbone"]["stride"] = 16
    sections["image"]["size"] = pixels
    return _on(sections, dataset)


def _on(sections: dict[str, Any], dataset: dict[str, Any]) -> Config:
    """The config on a data set, with its queries."""
    queries = _QUERIES if dataset["name"] == "synthetic" else 0
    among_colors = dataset.get("source") == "colors"  # whose categories are garments
    protocol = {"queries": queries, "same_category": among_colors}
    given = {"dataset": dataset, "eval": {"protocol": protocol}}
    return parse_config(make_config(**{**sections, **given}))


def measure(config: Config, trained: tuple[Run, TrainState] | None = None) -> dict[str, Any]:
    """Returns the metrics over all queries, with their intervals; of no run, untrained."""
    mesh = make_mesh()
    run, state = trained or start_untrained(config, mesh)
    evaluators = build_evaluators(config, run.matcher, mesh, load_dataset(config.dataset), "test")
    result = evaluators["retrieval"].run(state.variables, 0)
    if not isinstance(result, RetrievalResult):
        raise TypeError(type(result))
    whole = results_dict(result, config.name, 0)["protocols"]["all"]
    kept = {name: whole[name] for name in (*_METRICS, "queries", "gallery")}
    return kept | {"intervals_95": {name: whole["intervals_95"][name] for name in _METRICS}}


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table in percent with 95% intervals."""
    lines = [
        [row["photos"], row["features"], str(row["pixels"])]
        + [format_cell([row], name) for name in _METRICS]
        for row in rows
    ]
    return markdown_table(("photos", "features", "pixels", *map(column_title, _METRICS)), lines)


if __name__ == "__main__":
    main()
