"""Our metrics and LookBench's, of the same features; a matcher under its pipeline."""

import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax import metrics
from tests.input_pipeline.lookbench_trees import write_paths

pytest.importorskip("look_bench", reason="pip install look-bench")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # its own, and PyTorch's
_OURS = {
    "recall": metrics.top_k_hits,
    "mrr": lambda ranks, k: metrics.reciprocal_rank(ranks),
    "map": lambda ranks, k: metrics.average_precision(ranks),
}


@pytest.mark.parametrize("name", _OURS)
def test_metrics_of_the_same_features_are_ours(name):
    import torch
    from look_bench.metrics import create_evaluator

    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((n, 8), np.float32) for n in (40, 60))
    query_labels, gallery_labels = rng.integers(0, 9, 40), rng.integers(0, 9, 60)
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    rows = [np.flatnonzero(gallery_labels == label) for label in query_labels]
    positives = np.full((40, max(map(len, rows))), -1)
    for row, found in zip(positives, rows, strict=True):
        row[: len(found)] = found
    ranks = metrics.positive_ranks(jnp.asarray(query @ gallery.T), positives)

    cutoffs = [1, 5, 20, 60] if name == "recall" else [60]  # ours see the whole gallery
    features = torch.from_numpy(query), query_labels, torch.from_numpy(gallery), gallery_labels
    theirs = create_evaluator(name, rank_values=cutoffs).evaluate(*features)
    ours = {f"{name}@{k}": 100 * float(jnp.mean(_OURS[name](ranks, k=k))) for k in cutoffs}
    assert theirs == pytest.approx(ours, abs=0.006)  # theirs have two decimals


def test_a_matcher_under_its_pipeline_ranks_as_ours(tmp_path):
    from benchmarks import lookbench

    model, source = "imagenet:efficientnet_lite0", str(write_paths(tmp_path / "shop"))
    ours = lookbench.measure_ranking(*lookbench.rank(model, source))
    assert lookbench.run_pipeline(model, source) == ours
    assert 0 < ours["map@20"] < 100
