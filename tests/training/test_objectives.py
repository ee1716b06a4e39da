"""Objectives are what loops over pairs, triplets and images say, from the matcher's own outputs."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from grnet_jax import losses, models
from grnet_jax.config import parse_config
from grnet_jax.models.matcher import unit_vectors
from grnet_jax.training.objectives import build_objective
from tests.small import small_config
from tests.training.steps import Index, first_step, image_batch, pair_batch


def _pair_outputs(first):
    """Features of customers and of shop images, from images in the order that BatchNorm sees."""
    batch = pair_batch()
    images = np.stack([batch["customer"], batch["shop"]], axis=1).reshape(-1, 32, 32, 3)
    features = first.apply(images, "embed")
    return batch, *(jax.tree.map(lambda leaf, k=k: leaf[k::2], features) for k in (0, 1))


def _pairs(batch, leave_out):
    """By customer image its shop images, whether they show its item, without those left out."""
    items, contents = batch["item"], batch["content"]
    return [
        {
            j: items[i] == items[j]
            for j in range(len(items))
            if items[i] == items[j] or not (leave_out and contents[i] == contents[j])
        }
        for i in range(len(items))
    ]


def _share_first(scores, batch):
    """Of customers whose best image of their item scores above all of other items."""
    same = batch["item"][:, None] == batch["item"]
    best, other = (np.where(mask, scores, -np.inf).max(axis=1) for mask in (same, ~same))
    return np.mean(best > other)


@pytest.mark.parametrize("leave_out", [False, True])
def test_the_pair_loss_is_the_mean_over_all_pairs(leave_out):
    fields = {"loss.leave_out_identical": leave_out, "loss.query_softmax_weight": 0.0}
    first = first_step(small_config(**fields))
    batch, customers, shops = _pair_outputs(first)
    score = jax.jit(lambda v, x, y: models.score(first.matcher, v, x, y))
    scores = np.float64(score(first.variables, customers, shops))
    each = [
        np.log1p(np.exp(-scores[i, j] if same else scores[i, j]))
        for i, row in enumerate(_pairs(batch, leave_out))
        for j, same in row.items()
    ]
    assert len(each) == (62 if leave_out else 64)
    np.testing.assert_allclose(first.loss, np.mean(each), rtol=1e-5)
    np.testing.assert_allclose(first.metrics["batch_top1"], _share_first(scores, batch))


def test_a_shortlist_scores_own_shop_images_and_the_most_alike():
    fields = {"loss.shortlist": 3, "loss.query_softmax_weight": 0.0, "loss.embedding_weight": 0.0}
    first = first_step(small_config(**fields, **{"loss.leave_out_identical": True}))
    batch, customers, shops = _pair_outputs(first)
    score = jax.jit(lambda v, x, y: models.score(first.matcher, v, x, y))
    scores = np.float64(score(first.variables, customers, shops))
    alike = np.float64(customers.embedding) @ np.float64(shops.embedding).T
    each, best = [], []
    for i, row in enumerate(_pairs(batch, leave_out=True)):
        nearest = sorted(row, key=lambda j: (not row[j], -alike[i, j]))[:3]
        each += [np.log1p(np.exp(-scores[i, j] if row[j] else scores[i, j])) for j in nearest]
        own, other = (
            max(scores[i, j] for j in nearest if row[j] == same) for same in (True, False)
        )
        best.append(own > other)
    np.testing.assert_allclose(first.loss, np.mean(each), rtol=1e-5)
    np.testing.assert_allclose(first.metrics["batch_top1"], np.mean(best))


def test_scores_alone_are_without_what_embeddings_add():
    fields = {"loss.score_alone": True, "loss.shortlist": 0, "loss.embedding_weight": 0.0}
    first = first_step(small_config("grnet_aligned", **fields, **{"loss.query_softmax_weight": 0}))
    batch, customers, shops = _pair_outputs(first)
    scores = np.float64(first.matcher.apply(first.variables, customers, shops, method="score"))
    cosines = np.float64(customers.embedding) @ np.float64(shops.embedding).T
    scores -= first.matcher.embedding_score * (cosines - 0.5)
    same = batch["item"][:, None] == batch["item"]
    each = np.log1p(np.exp(np.where(same, -scores, scores)))
    np.testing.assert_allclose(first.loss, np.mean(each), rtol=1e-5)
    np.testing.assert_allclose(first.metrics["batch_top1"], _share_first(scores, batch))


def _embedding_config(weight, dim=0, **fields):
    fields |= {"loss.embedding_weight": weight, "loss.embedding_temperature": 0.2}
    return small_config(**fields, **{"model.embedding_dim": dim})


@pytest.mark.parametrize(
    ("dim", "leave_out"), [(0, False), pytest.param(6, True, marks=pytest.mark.slow)]
)
def test_the_embedding_loss_is_the_softmax_over_shop_images(dim, leave_out):
    fields = {"loss.leave_out_identical": leave_out}
    without = first_step(_embedding_config(0.0, dim, **fields))
    first = first_step(_embedding_config(0.5, dim, **fields))
    batch, customers, shops = _pair_outputs(first)
    cosines = np.float64(customers.embedding) @ np.float64(shops.embedding).T
    each = []
    for i, row in enumerate(_pairs(batch, leave_out)):
        likely = {j: np.exp(cosines[i, j] / 0.2) for j in row}
        each.append(-np.log(sum(likely[j] for j in row if row[j]) / sum(likely.values())))
    np.testing.assert_allclose(first.metrics["embedding_loss"], np.mean(each), rtol=1e-4)
    np.testing.assert_allclose(first.metrics["embedding_batch_top1"], _share_first(cosines, batch))
    np.testing.assert_allclose(first.loss, without.loss + 0.5 * np.mean(each), rtol=1e-5)


def _any(tree):
    return any(np.any(leaf) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_embeddings_learn_alone_or_beside_and_leave_the_rest_alone():
    both, pairs = (first_step(_embedding_config(weight, 6)) for weight in (0.5, 0.0))
    alone = first_step(_embedding_config(0.5, 6, **{"loss.pair_weight": 0.0}))
    np.testing.assert_allclose(alone.loss, both.loss - pairs.loss, rtol=1e-4)
    assert "batch_top1" not in alone.metrics
    assert not _any(alone.grads["graph"])
    for part in ("backbone", "graph"):
        for x, y in zip(
            *(jax.tree.leaves(first.grads[part]) for first in (pairs, both)), strict=True
        ):
            np.testing.assert_allclose(x, y, atol=1e-5 * max(np.abs(x).max(), 1e-6))
    learns = [_any(first.grads["projection"]) for first in (both, pairs, alone)]
    assert learns == [True, False, True]


@pytest.mark.slow
def test_without_a_projection_the_backbone_learns_from_embeddings():
    without, beside = (first_step(_embedding_config(weight)).grads for weight in (0.0, 0.5))
    change = jax.tree.map(lambda x, y: np.abs(x - y).max() > 1e-3, without, beside)
    assert any(jax.tree.leaves(change["backbone"]))
    assert not any(jax.tree.leaves(change["graph"]))


@pytest.mark.slow
def test_the_gradient_is_that_of_the_trainable_parts_alone():
    frozen = {"model.backbone.frozen_batch_norm": True}
    everything, part = (
        first_step(_embedding_config(0.5, 6, **frozen, **{"optimizer.trainable": trainable}))
        for trainable in ("", "projection")
    )
    np.testing.assert_allclose(part.loss, everything.loss, rtol=1e-6)
    kernel, expected = (first.grads["projection"]["kernel"] for first in (part, everything))
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-7)
    assert np.any(kernel)
    assert not _any((part.grads["backbone"], part.grads["graph"]))


class _Linear(models.EmbeddingModel):
    """Embeddings and logits that are linear in the images."""

    num_classes: int = 5

    @nn.compact
    def classify(self, images, train=False):
        x = images.reshape(len(images), -1) / 255.0
        return models.Features(unit_vectors(nn.Dense(3)(x))), nn.Dense(self.num_classes)(x)


def _linear_loss(config, batch, classes=5):
    """The objective with `_Linear`: loss, metrics, embeddings and logits in float64."""
    matcher = _Linear(num_classes=classes)
    params = matcher.init(jax.random.key(0), batch["image"], method="classify")["params"]
    objective = build_objective(matcher, parse_config(config))
    loss, (_, metrics) = objective(params, {}, {**batch, "step": 0}, lambda tree: tree)
    features, logits = matcher.apply({"params": params}, batch["image"], method="classify")
    return loss, metrics, np.float64(features.embedding), np.float64(logits)


def _cross_entropy(logits, labels):
    rows = [(row, label) for row, label in zip(logits, labels, strict=True) if label >= 0]
    return np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in rows])


def _triplet_distances(x, group, domain):
    """Of every customer, shop image of its group and shop image of another: both distances."""
    shops = [j for j in range(len(x)) if domain[j] == 1 and group[j] >= 0]
    for i in np.flatnonzero((np.asarray(domain) == 0) & (np.asarray(group) >= 0)):
        for p in shops:
            for n in shops:
                if group[p] == group[i] != group[n]:
                    yield np.linalg.norm(x[i] - x[p]), np.linalg.norm(x[i] - x[n])


@pytest.mark.parametrize(
    "fields",
    [{"loss.name": "classification"}, {"loss.similarity": "category"}, {"loss.similarity": "item"}],
    ids=["OC", "OC+OS", "OC+IS"],
)
def test_park_et_als_losses_equal_loops(fields):
    config, batch = small_config("fir", **fields), image_batch(12, size=2)
    loss, metrics, x, logits = _linear_loss(config, batch)
    entropy = _cross_entropy(logits, batch["category"])
    pairs = list(_triplet_distances(x, batch[config.loss.similarity], batch["domain"]))
    ranks = config.loss.name == "triplet"
    hinges = [max(0, 0.3 + near**2 - far**2) for near, far in pairs]
    triplets = np.mean(hinges) if ranks else 0.0
    np.testing.assert_allclose(loss, entropy + 0.1 * triplets, rtol=1e-5)
    np.testing.assert_allclose(metrics["class_loss"], entropy, rtol=1e-5)
    known = batch["category"] >= 0
    right = logits.argmax(axis=1) == batch["category"]
    np.testing.assert_allclose(metrics["batch_accuracy"], right[known].mean(), rtol=1e-6)
    assert (triplets > 0) == ranks
    if config.loss.similarity == "item" and ranks:
        scores = x[::2] @ x[1::2].T
        same = batch["item"][::2, None] == batch["item"][1::2]
        first = same[np.arange(len(same)), scores.argmax(axis=1)]
        np.testing.assert_allclose(metrics["batch_top1"], first.mean(), rtol=1e-6)


def test_the_ap_loss_is_that_of_customers_against_shop_images():
    config, batch = small_config("embedding", **{"loss.name": "ap"}), image_batch(12, size=2)
    loss, _, x, _ = _linear_loss(config, batch)
    same = batch["item"][::2, None] == batch["item"][1::2]
    expected = losses.average_precision_loss(x[::2] @ x[1::2].T, same, ~same).loss
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def _class_config(name, **fields):
    fields |= {"name": name, "class_weight": 1.0}
    config = small_config("embedding", **{"model.num_classes": 5})
    config.model.proxies = name == "proxy_nca"
    config.loss.update(fields)
    return config


def test_items_as_classes():
    config, batch = _class_config("classification", label="item"), image_batch(12, size=2)
    loss, _, _, logits = _linear_loss(config, batch)
    np.testing.assert_allclose(loss, _cross_entropy(logits, batch["item"]), rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 3])
def test_meta_classes_are_the_members_grouping_of_the_items(seed):
    config = _class_config("proxy_nca", label="meta_class", proxy_scale=2.0, group_seed=seed)
    batch = image_batch(size=2)
    batch["item"][1] = -1
    loss, _, _, logits = _linear_loss(config, batch)
    groups = losses.random_meta_classes(np.arange(20), 5, seed)
    each = []
    for row, item in zip(logits, batch["item"], strict=True):
        if item >= 0:
            near = np.exp(2.0 * row)
            each.append(-np.log(near[groups[item]] / (near.sum() - near[groups[item]])))
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)


def _recognition_losses(predictions, batch):
    expected = {
        "category": losses.class_cross_entropy(predictions.category, batch["category"]),
        "attributes": losses.attribute_cross_entropy(
            predictions.attributes,
            batch["attributes"],
            *losses.attribute_weights(*Index().attribute_counts()),
        ),
    }
    if predictions.landmarks is not None:
        visible = batch["visibility"] == 0
        expected |= {
            "landmarks": losses.landmark_regression(
                predictions.landmarks, batch["landmarks"], visible
            ),
            "visibility": losses.visibility_cross_entropy(
                predictions.visibility, batch["visibility"]
            ),
        }
    return expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "step", "phase"),
    [("fashionnet", 0, "pose"), ("fashionnet", 4, "recognition"), ("darn", 0, "recognition")],
)
def test_recognition_is_the_weighted_sum_of_its_losses(system, step, phase):
    config = small_config(system)
    first, batch = first_step(config, step=step), image_batch()
    images = models.model_inputs(first.matcher, batch)
    features, predictions = first.apply(images, "predict")
    expected = _recognition_losses(predictions, batch)
    # DARN compares customers with shop images, FashionNet any image with any.
    x, item, domain = np.float64(features.embedding), batch["item"], batch["domain"]
    if system == "darn":
        pairs = list(_triplet_distances(x, item, domain))
        expected["triplets"] = np.mean([max(0, 0.3 + p**2 - n**2) / 2 for p, n in pairs])
    else:
        masks = losses.comparison_masks(item, item)
        expected["triplets"] = losses.triplet_loss(x, x, *masks, margin=0.3).loss
    names = {name for name in first.metrics if name.startswith("loss_")}
    assert names == {f"loss_{term}" for term in expected}
    weights = config.loss[phase]
    for term, value in expected.items():
        np.testing.assert_allclose(first.metrics[f"loss_{term}"], value, rtol=1e-4)
        np.testing.assert_allclose(first.metrics[f"weight_{term}"], weights[term], rtol=1e-6)
    total = sum(weights[term] * value for term, value in expected.items())
    np.testing.assert_allclose(first.loss, total, rtol=1e-4)
