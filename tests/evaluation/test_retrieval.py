"""Evaluation of retrieval: in memory and stored, exhaustive and by the cascade, after a kill."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import input_pipeline
from configs import color_histogram
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.evaluation import build_evaluators, retrieval
from grnet_jax.evaluation.protocols import build_protocol
from grnet_jax.evaluation.reports import format_table, results_dict
from grnet_jax.evaluation.retrieval import RetrievalEvaluator
from grnet_jax.search.features import read_all
from grnet_jax.search.fingerprints import model_fingerprint
from grnet_jax.search.store import StoreError
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import build_run
from tests import FAST_COMPILING
from tests.search.cases import naive_order, naive_ranks

_ROOT = pathlib.Path(__file__).parents[2]


class Case:
    """A matcher with untrained variables on the tiny synthetic set."""

    def __init__(self, config):
        self.run = build_run(parse_config(config), make_mesh())
        self.dataset = input_pipeline.load_dataset(self.run.config.dataset)
        self.variables = self.run.create_state().variables

    def evaluator(
        self, store="", scratch="", *, same_category=False, split="test", rank_items="", **search
    ):
        config = self.run.config
        whitening = search.get("whitening", "")
        chosen = {"split": split, "gallery": "all", "same_category": same_category}
        chosen["rank_items"] = rank_items
        options = config.eval.protocol.model_copy(update=chosen | {"count_identical": True})
        protocol = build_protocol(self.dataset, config.image, options, whitening=whitening)
        search = config.eval.search.model_copy(update=search)
        changed = config.eval.model_copy(update={"search": search, "protocol": options})
        config = config.model_copy(update={"eval": changed})
        parts = self.run.matcher, self.run.mesh, protocol, str(store), str(scratch)
        return RetrievalEvaluator(config, *parts)

    def evaluate(self, store="", step=0, scratch="", **options):
        return self.evaluator(store, scratch, **options).run(self.variables, step)


@pytest.fixture(scope="module")
def case(tiny_config):
    """GRNet."""
    return Case(tiny_config())


@pytest.fixture(scope="module")
def histogram(tiny_config):
    """The color histogram."""
    config = tiny_config()
    plain = color_histogram.get_config()
    values = {"dataset": config.dataset.to_dict(), "image": {"size": 32}, "name": "histogram"}
    return Case({**values, "model": plain.model.to_dict(), "eval": {"batch_size": 16}})


def _same(one, two):
    for field in dataclasses.fields(one.ranking):
        pair = (getattr(each.ranking, field.name) for each in (one, two))
        np.testing.assert_array_equal(*pair)
    assert results_dict(one, "x", 1) == results_dict(two, "x", 1)


@pytest.mark.parametrize("same_category", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_store_changes_no_metric(case, tmp_path, monkeypatch, same_category):
    memory = case.evaluate(same_category=same_category)
    store = tmp_path / "store"
    _same(memory, case.evaluate(store, 3, same_category=same_category))
    assert sorted(path.name for path in store.iterdir()) == ["gallery.lance", "queries.lance"]

    def forbidden(*args, **options):
        raise AssertionError("images were read again")

    monkeypatch.setattr(input_pipeline, "image_batches", forbidden)
    _same(memory, case.evaluate(store, 3, same_category=same_category))


def test_features_above_the_limit_are_on_the_disk_until_the_end(case, tmp_path, monkeypatch):
    memory, scratch = case.evaluate(), tmp_path / "scratch"
    count = len(memory.protocol.query_rows) + len(memory.protocol.gallery_rows)
    shapes = case.evaluator()._feature_shapes(case.variables)
    size = count * sum(leaf.size * 4 for leaf in jax.tree.leaves(shapes)) / 16  # of a batch
    seen = []
    remove = RetrievalEvaluator._remove_scratch

    def look(evaluator):
        seen.append(sorted(path.name.split("-")[0] for path in scratch.glob("*.lance")))
        remove(evaluator)

    monkeypatch.setattr(RetrievalEvaluator, "_remove_scratch", look)
    for share, names in ((0.999, ["gallery", "queries"]), (1.001, [])):
        monkeypatch.setattr(retrieval, "machine_memory", lambda share=share: 4 * share * size)
        _same(memory, case.evaluate(scratch=scratch))
        assert seen.pop() == names
        assert not scratch.exists()


def test_an_interrupted_embedding_goes_on(case, tmp_path, monkeypatch):
    read, image_batches = [], input_pipeline.image_batches

    def some(split, rows, image, *, batch):
        for number, found in enumerate(image_batches(split, rows, image, batch=batch)):
            if len(read) == 1 and number == 2:
                raise ConnectionError("gone")
            yield found
        read.append(len(rows))

    monkeypatch.setattr("grnet_jax.search.columns._COMMIT_ROWS", 16)
    monkeypatch.setattr(input_pipeline, "image_batches", some)
    with pytest.raises(ConnectionError):
        case.evaluate(tmp_path)
    read.append(0)
    found = case.evaluate(tmp_path)
    full = -(-len(found.protocol.gallery_rows) // 16) * 16
    assert read[-1] == full - 32  # the two batches before were kept
    _same(case.evaluate(), found)


def test_a_store_of_another_model_is_refused(case, tmp_path):
    case.evaluate(tmp_path, 3)
    other = jax.tree.map(lambda leaf: leaf + 1, case.variables)
    with pytest.raises(StoreError, match=r"model: [0-9a-f]{16} there, [0-9a-f]{16} now"):
        case.evaluator(tmp_path).run(other, 3)
    with pytest.raises(StoreError, match="step: 3 there, 6 now"):
        case.evaluate(tmp_path, 6)
    with pytest.raises(StoreError, match=r"photos: .* there, .* now"):
        case.evaluate(tmp_path, 3, split="val")
    with pytest.raises(StoreError, match="model: "):
        case.evaluate(tmp_path, 3, flip_average=True)


@pytest.mark.slow
def test_half_precision_stores_rank_nearly_alike(case, tmp_path):
    one, two = (
        case.evaluate(tmp_path / dtype, store_dtype=dtype).ranking.scores
        for dtype in ("float32", "float16")
    )
    assert np.any(one != two)
    np.testing.assert_allclose(one, two, rtol=0.02, atol=1e-3)


_FIELDS = {
    "whitening": "train",
    "whitening_dim": 4,
    "query_expansion": 2,
    "query_expansion_alpha": 3.0,
}


def test_post_processing_comes_after_what_is_stored(histogram, tmp_path):
    plain, memory = histogram.evaluate(tmp_path), histogram.evaluate(**_FIELDS)
    _same(memory, histogram.evaluate(tmp_path, **_FIELDS))
    assert np.any(plain.ranking.scores != memory.ranking.scores)
    assert (tmp_path / "whitening-train.lance").exists()
    assert plain.processing == {}
    assert memory.processing == {f"eval.search.{name}": value for name, value in _FIELDS.items()}
    assert "With eval.search.whitening=train, " in memory.describe()
    assert results_dict(memory, "x", 1)["processing"] == memory.processing


@pytest.mark.parametrize(
    ("how", "same_category"),
    [
        ("best_image", False),
        pytest.param("best_image", True, marks=pytest.mark.slow),
        pytest.param("centroid", True, marks=pytest.mark.slow),
    ],
)
def test_items_are_measured_beside_images(histogram, how, same_category):
    plain = histogram.evaluate(same_category=same_category)
    evaluator = histogram.evaluator(rank_items=how, same_category=same_category)
    # Shop images are those of every second item, two of each.
    listed = evaluator.protocol.listed
    pairs = np.stack([listed[:, 0], listed[:, 1] - listed[:, 1] % 2], axis=1)
    evaluator.protocol = dataclasses.replace(evaluator.protocol, listed=pairs)
    found = evaluator.run(histogram.variables)
    for name, alone in plain.metrics.items():
        beside, alone = (dataclasses.asdict(one) for one in (found.metrics[name], alone))
        np.testing.assert_equal(beside, alone)
    protocol, index = found.protocol, found.protocol.images.index
    query, gallery = (
        read_all(evaluator.features(histogram.variables, protocol.images, rows, "")).embedding
        for rows in (protocol.query_rows, protocol.gallery_rows)
    )
    hits = []
    for row, asked in zip(query, protocol.query_rows, strict=True):
        alike = index.category[protocol.gallery_rows] == index.category[asked]
        scores = {}
        for item in np.unique(pairs[:, 1]):
            images = gallery[pairs[(pairs[:, 1] == item) & (alike | (not same_category)), 0]]
            if len(images):
                mean = images.mean(axis=0) / np.linalg.norm(images.mean(axis=0))
                scores[item] = mean @ row if how == "centroid" else (images @ row).max()
        if (own := index.item[asked]) in scores:
            hits.append(sum(score > scores[own] for score in scores.values()) < 5)
    measured = found.metrics["all_items"]
    assert measured.values["top5"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert measured.queries == len(hits)
    named = "best photo" if how == "best_image" else "mean embedding"
    assert measured.title.endswith(f", items by their {named}")
    assert ("category_mean_items" in found.metrics) == same_category


def test_fingerprints_know_the_options(histogram):
    evaluators = [
        histogram.evaluator(**fields)
        for fields in ({}, {"query_expansion": 2}, _FIELDS, {"top_k": 5}, {"flip_average": True})
    ]
    assert len({evaluator._ranking_fingerprint({}) for evaluator in evaluators}) == 5
    models = [model_fingerprint(evaluator._config, {}) for evaluator in evaluators]
    assert models[:4] == models[:1] * 4 != models[1:]


@pytest.mark.parametrize("same_category", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_grnet_by_the_cascade(case, tmp_path, same_category):
    """Its own scores and embeddings, and the naive cascade's order of them."""
    size = 2 if same_category else 10
    options = {"same_category": same_category, "shortlist": size, "top_k": 44}
    found = case.evaluate(**options)
    _same(found, case.evaluate(tmp_path, **options))
    protocol, ranking = found.protocol, found.ranking
    query, gallery = (
        read_all(case.evaluator().features(case.variables, protocol.images, rows, what))
        for what, rows in (("queries", protocol.query_rows), ("gallery", protocol.gallery_rows))
    )
    products = query.embedding @ gallery.embedding.T
    scores = case.run.matcher.apply(case.variables, query, gallery, method="score")
    for group in protocol.groups:
        for q in group.queries:
            rows = protocol.positives[q]
            order = naive_order(products[q], group.gallery)
            short = naive_order(np.asarray(scores)[q], order[:size])
            ranks = naive_ranks([short + order[size:]], rows[None])[0]
            np.testing.assert_array_equal(ranking.ranks[q], ranks)
            np.testing.assert_array_equal(ranking.indices[q, : len(short)], short)
            close = np.asarray(scores)[q, short]
            np.testing.assert_allclose(ranking.scores[q, : len(short)], close, rtol=1e-4, atol=1e-5)
    assert found.share_scored < 1
    assert found.metrics["all"].best_match is not None
    if not same_category:
        assert "each query's 10 first by embeddings, 22.7% of all pairs" in format_table(found)
        assert results_dict(found, "grnet", 3)["shortlist"] == 10


def test_a_shortlist_as_long_as_the_gallery_changes_nothing(case):
    one, two = case.evaluate(), case.evaluate(shortlist=44)
    _same(one, two)
    assert two.share_scored == 1


def test_fields_that_change_nothing_are_refused(case, histogram):
    with pytest.raises(InputError, match=r"shortlist=5: .* inner product of embeddings"):
        histogram.evaluator(shortlist=5)
    message = r"eval\.search\.whitening, eval\.search\.query_expansion: .*scores regions"
    with pytest.raises(InputError, match=message):
        case.evaluator(whitening="gallery", query_expansion=2)


def test_validation_is_on_a_sample_of_its_own_split_in_memory(case, tmp_path):
    config = case.run.config
    protocol = config.eval.protocol.model_copy(update={"val_queries": 3, "gallery": "all"})
    search = config.eval.search.model_copy(update={"store": str(tmp_path)})
    changed = config.eval.model_copy(update={"protocol": protocol, "search": search})
    config = config.model_copy(update={"eval": changed})
    parts = config, case.run.matcher, case.run.mesh, case.dataset, "val"
    evaluators = build_evaluators(*parts, validation=True)
    assert list(evaluators) == ["retrieval"]
    result = evaluators["retrieval"].run(case.variables)
    assert result.protocol.gallery_splits == ("val",)
    assert len(result.protocol.query_rows) == 3
    assert result.values == result.metrics["all"].values
    assert not list(tmp_path.iterdir())
    whole = build_evaluators(*parts)["retrieval"].protocol
    assert whole.gallery_splits[0] == "val"
    assert len(whole.query_rows) > 3


@pytest.mark.slow
def test_two_processes_rank_from_one_store_as_one_does(data_dir, tmp_path, histogram):
    one = _start_eval(data_dir, tmp_path / "one", 4)
    assert one.wait(timeout=300) == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for again in range(2):  # the second time everything is stored
        two = [
            _start_eval(
                data_dir,
                tmp_path / "two",
                2,
                JAX_COORDINATOR_ADDRESS=f"localhost:{port + again}",
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(number),
            )
            for number in range(2)
        ]
        assert [process.wait(timeout=300) for process in two] == [0, 0]
        results = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two")]
        assert results[0] == results[1]


def _start_eval(data_dir, to, devices, **env):
    to.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", _EVALUATE, str(data_dir), str(to)],
        cwd=_ROOT,
        env=os.environ
        | {"XLA_FLAGS": f"{FAST_COMPILING} --xla_force_host_platform_device_count={devices}"}
        | env,
    )


# As eval.py, of a matcher without parameters.
_EVALUATE = """
import sys
import jax
from etils import epath
from configs import color_histogram
from grnet_jax.config import parse_config
from grnet_jax.evaluation import build_evaluators
from grnet_jax.runtime import initialize_distributed
from grnet_jax.sharding import make_mesh
from grnet_jax.models import build_matcher
from input_pipeline import load_dataset
initialize_distributed()
data, to = sys.argv[1:]
values = color_histogram.get_config().to_dict()
values["dataset"].update(dir=data, source="tiny")
values["eval"].update(batch_size=8, search={"store": to + "/store"})
config = parse_config(values)
dataset = load_dataset(config.dataset)
parts = config, build_matcher(config.model), make_mesh(), dataset, "test"
result = build_evaluators(*parts)["retrieval"].run({})
if jax.process_index() == 0:
    result.write(epath.Path(to), "x", 0, {})
"""
