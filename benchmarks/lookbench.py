"""A matcher under the evaluation of LookBench's package (PyPI: look-bench), on a local folder.

    python -m benchmarks.lookbench --model=runs/demo --source=look-bench/shop

--model is a run or a matcher that needs no training, as imagenet:efficientnet_lite0. --source is
a folder in the form that the package reads: query/query.parquet and gallery/gallery.parquet with
the columns image, a path below the folder or an image's bytes, and label. The first column of the
table is the package's own pipeline, which sees embeddings alone; the second its metrics of our
ranking, which for GRNet is by the pair score. Nothing is written.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from look_bench.metrics import create_evaluator
from look_bench.models import BaseModel, register_model
from look_bench.runner.runner import Runner

import grnet_jax
from benchmarks.results_file import make_parser, markdown_table
from grnet_jax.inference import LoadedMatcher
from input_pipeline import InputError, build_transform, crop_and_resize, to_path
from input_pipeline.datasets.lookbench import to_table

_METRICS = ("recall", "mrr", "ndcg", "map")
TOP_K = (1, 5, 10, 20)


@register_model("grnet_jax")
class MatcherModel(BaseModel):
    """A matcher's embedding as a model of LookBench, queries and gallery alike."""

    _matcher: LoadedMatcher

    @classmethod
    def load_model(cls, model_name: str, model_path: str | None = None) -> tuple[Any, BaseModel]:
        """Returns the function from a batch of `get_transform` to embeddings, and the model."""
        matcher = grnet_jax.load(model_path or model_name)
        if matcher.config.image.crop == "center":
            raise InputError("image.crop='center': LookBench's pipeline crops before the matcher")
        cls._matcher = matcher
        return functools.partial(_embed, matcher), cls()

    @classmethod
    def get_transform(cls, input_size: int = 0, is_train: bool = False) -> Any:
        """Returns a function from an image of Pillow to what the loaded matcher sees, uint8."""
        transform = build_transform(cls._matcher.config.image)
        return lambda image: torch.from_numpy(
            crop_and_resize(np.asarray(image.convert("RGB")), None, transform)
        )


def _embed(matcher: LoadedMatcher, images: torch.Tensor) -> torch.Tensor:
    """Returns unit embeddings [n, d] of uint8 images [n, S, S, 3]."""
    return torch.from_numpy(np.array(matcher.embed(list(images.numpy())).embedding))


def run_pipeline(model: str, source: str, batch_size: int = 32) -> dict[str, float]:
    """Returns the metrics of the package's evaluation pipeline, in percent."""
    config: dict[str, Any] = {
        "datasets": {
            "own": {
                "data_root": source,
                "parquet_files": {"query": "query.parquet", "gallery": "gallery.parquet"},
            },
            "batch_size": batch_size,
            "num_workers": 0,
        },
        "grnet_jax": {"model_name": model, "input_size": 0, "device": "cpu"},
        "pipeline": {"name": "evaluation", "model": "grnet_jax", "dataset": "own"},
        "logging": {"level": "WARNING", "log_file": None},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        features = Runner.build_from_config(str(path)).run()["features_info"]
    metrics: dict[str, float] = {}
    for metric in _METRICS:
        metrics |= create_evaluator(metric, rank_values=list(TOP_K)).evaluate(**features)
    return metrics


def measure_ranking(
    indices: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray
) -> dict[str, float]:
    """Returns the package's metrics of a ranking, in percent.

    Args:
      indices: int [q, g], gallery images of each query, best first.
      query_labels: [q].
      gallery_labels: [g]; a match has the query's label.
    """
    metrics = {}
    for name in _METRICS:
        evaluator = create_evaluator(name)
        for k in TOP_K:
            values = [
                evaluator.metric_eval(order, k, label, gallery_labels)
                for order, label in zip(indices, query_labels, strict=True)
            ]
            metrics[f"{name}@{k}"] = round(100 * float(np.mean(values)), 2)
    return metrics


def rank(model: str, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the matcher's ranking of a folder, and the labels of its queries and gallery."""
    matcher, table = grnet_jax.load(model), to_table(to_path(source, "--source"))
    query, gallery = (table[table["domain"] == domain] for domain in ("customer", "shop"))
    queries = matcher.embed(query["path"].tolist())
    found = matcher.search(
        queries, matcher.embed(gallery["path"].tolist(), shop=True), top_k=len(gallery)
    )
    return found.indices, query["item_id"].to_numpy(), gallery["item_id"].to_numpy()


def main() -> None:
    """Prints both columns."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, help="a run, or imagenet:NAME")
    parser.add_argument("--source", required=True, help="folder with query/ and gallery/")
    options = parser.parse_args()
    theirs = run_pipeline(options.model, options.source)
    ours = measure_ranking(*rank(options.model, options.source))
    rows = [(name, theirs[name], ours[name]) for name in ours]
    print(markdown_table(("metric", "the package's pipeline", "our ranking"), rows))


if __name__ == "__main__":
    main()
