"""GRNet trains a step on each benchmark's form and is measured by its protocol."""

import csv
from pathlib import Path

import numpy as np
import pytest

from configs import grnet
from grnet_jax.config import parse_config
from grnet_jax.evaluation import build_evaluators
from grnet_jax.sharding import make_mesh
from grnet_jax.training import loop
from grnet_jax.training.build import build_run
from input_pipeline import dataset_names, load_dataset
from tests.input_pipeline import deepfashion2_trees, deepfashion_trees, street2shop_trees
from tests.input_pipeline.conftest import photo_bytes


def write_findfashion(root: Path) -> Path:
    """Ten items of train and ten of test, a customer and a shop photo each."""
    root.mkdir()
    path = root / "findfashion.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "item_id", "domain", "split", "view", "occluded", "cropped"])
        for number in range(20):
            split = "train" if number < 10 else "test"
            flags = ("front", "side", "back")[number % 3], number % 2, number // 5 % 2
            for domain in ("customer", "shop"):
                name = f"{number}_{domain}.jpg"
                (root / name).write_bytes(photo_bytes(number))
                table.writerow([name, f"item{number}", domain, split, *flags])
    return path


# For each data set: what writes a download of its form, and of each protocol of the test split the
# queries that are measured, those without a match, and the gallery.
CASES = {
    "deepfashion_c2s": (deepfashion_trees.write_c2s, {"all": (4, 0, 4)}),
    "deepfashion_inshop": (
        deepfashion_trees.write_inshop,
        {"all": (6, 0, 6), "hard_view": (3, 0, 6)},  # of other poses' views nothing is known
    ),
    "street2shop": (
        street2shop_trees.write_street2shop,
        {  # every query among its category's shop photos of both splits
            "all": (4, 0, None),
            "category:bags": (2, 0, 5),
            "category:dresses": (2, 0, 3),
            "category_mean": (4, 0, None),
        },
    ),
    "deepfashion2": (
        deepfashion2_trees.write_deepfashion2,
        {"all": (1, 0, 1), "hard_view": (1, 0, 1), "hard_occlusion": (1, 0, 1)},
    ),
    "findfashion": (
        write_findfashion,
        {
            "all": (10, 0, 10),
            "easy": (1, 0, 10),
            "hard_view": (7, 0, 10),
            "hard_occlusion": (5, 0, 10),
            "hard_cropping": (5, 0, 10),
        },
    ),
}


_FAST = ("street2shop",)


@pytest.mark.parametrize(
    "name",
    [name if name in _FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_one_step_and_one_evaluation(name, tmp_path):
    write, expected = CASES[name]
    config = grnet.get_config(name)
    assert config.image.size == 224
    assert config.optimizer.name == "sgd"
    config.dataset.source = str(write(tmp_path / "download"))
    config.dataset.dir = str(tmp_path / "data")
    config.image.size = 32
    config.model.backbone.name = "small"
    config.model.node_dim = 16
    config.model.reasoning_dim = 8
    config.train.batch_size = 8
    config.train.steps = 1
    config.train.eval_every = config.train.checkpoint_every = config.train.log_every = 1
    config.eval.batch_size = 8
    parsed, mesh = parse_config(config), make_mesh()
    trained = loop.train(parsed, str(tmp_path / "run"))
    assert trained.finished
    assert int(trained.state.step) == 1
    matcher, dataset = build_run(parsed, mesh).matcher, load_dataset(parsed.dataset)
    evaluators = build_evaluators(parsed, matcher, mesh, dataset, "test")
    result = evaluators["retrieval"].run(trained.state.variables)
    found = {
        name: (metrics.queries, metrics.without_match, metrics.gallery)
        for name, metrics in result.metrics.items()
    }
    assert found == expected
    ranks, positives = result.ranking.ranks, result.protocol.positives
    assert ((ranks > 0).sum(axis=1) == (positives >= 0).sum(axis=1)).all()
    for query, best in enumerate(result.ranking.indices):
        rank = ranks[query, 0]
        if rank <= len(best):  # where the best match stands, and nowhere before it
            right = np.isin(best, positives[query])
            assert rank == 1 + np.flatnonzero(right)[0]


def test_every_retrieval_benchmark_is_tried():
    assert set(CASES) | {"synthetic", "manifest"} == set(dataset_names("pairs"))
