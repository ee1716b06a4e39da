import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax import sharding
from grnet_jax.losses import DISTANCES, MINERS, REDUCTIONS, comparison_masks, triplet_loss, triplets
from tests.losses import naive

_ITEM = np.array([4, 4, 4, 7, 7, 2, 2, 9, 4, 7, -1, -1])  # 9 is alone, the last two are padding
_DOMAIN = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1])  # 2 has no shop photo

_loss = jax.jit(triplet_loss, static_argnames=("distance", "miner", "reduction"))


def _batch(seed=0, dim=5):
    x = np.random.default_rng(seed).standard_normal((len(_ITEM), dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _masks(domains):
    pair = (_DOMAIN, _DOMAIN) if domains == "both" else (None, None)
    return tuple(np.asarray(mask) for mask in comparison_masks(_ITEM, _ITEM, *pair))


def test_masks_pair_by_pair():
    for domains in ("both", "any"):
        positive, negative = _masks(domains)
        for i in range(len(_ITEM)):
            for j in range(len(_ITEM)):
                counts = min(_ITEM[i], _ITEM[j]) >= 0
                if domains == "both":
                    counts = counts and _DOMAIN[i] == 0 and _DOMAIN[j] == 1
                else:
                    counts = counts and i != j
                assert positive[i, j] == (counts and _ITEM[i] == _ITEM[j])
                assert negative[i, j] == (counts and _ITEM[i] != _ITEM[j])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("domains", ["both", "any"])
def test_equals_loops_over_triplets(domains, distance, miner, reduction):
    x, (positive, negative) = _batch(), _masks(domains)
    options = {"margin": 0.4, "distance": distance, "miner": miner, "reduction": reduction}
    wanted = naive.triplet_loss(x, x, positive, negative, **options)
    with jax.enable_x64(True):
        found = _loss(x, x, positive, negative, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    found = _loss(x.astype(np.float32), x.astype(np.float32), positive, negative, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert wanted[1] > 0


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_gradient_equals_differences(distance, miner):
    x, (positive, negative) = _batch(1, dim=3), _masks("both")

    def loss(x, function):
        return function(
            x, x, positive, negative, margin=0.4, distance=distance, miner=miner, reduction="mean"
        )[0]

    with jax.enable_x64(True):
        found = jax.jit(jax.grad(lambda x: loss(x, triplet_loss)))(x)
    wanted = naive.gradient(lambda x: loss(x, naive.triplet_loss), x)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    assert np.abs(wanted).max() > 1e-3


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_batch_without_triplets_costs_nothing(distance, miner):
    x = jnp.asarray(_batch())
    nothing = np.zeros((len(x), len(x)), bool)
    for positive, negative in ((nothing, ~nothing), (~nothing, nothing), (nothing, nothing)):
        options = {"margin": 0.2, "distance": distance, "miner": miner}
        loss, grad = jax.value_and_grad(
            lambda x, p=positive, n=negative, o=options: _loss(x, x, p, n, **o).loss
        )(x)
        assert loss == 0
        np.testing.assert_array_equal(grad, 0)
        found = _loss(x, x, positive, negative, **options)
        assert found.triplets == found.active == 0
        rows = len(x) if (positive | negative).any() else 0
        assert found.anchors == found.anchors_without == rows


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_collapsed_embeddings_tie_with_finite_gradients(distance, miner):
    x, (positive, negative) = jnp.ones((len(_ITEM), 4)) / 2, _masks("both")

    def loss(x):
        found = _loss(x, x, positive, negative, margin=0.3, distance=distance, miner=miner)
        return found.loss, found

    (value, found), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    assert np.isfinite(grad).all()
    if miner == "semi_hard":  # a tie is not farther
        assert found.triplets == value == 0
        assert found.anchors_without == found.anchors
    else:
        np.testing.assert_allclose(value, 0.15 if distance == "squared_l2" else 0.3, rtol=1e-6)
        assert found.active == 1


def test_ties_share_the_gradient():
    """Two positives and two negatives alike: each takes half."""
    anchor = jnp.array([[0.0, 0.0]])
    candidates = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    positive = np.array([[True, True, False, False]])
    grad = jax.grad(
        lambda c: _loss(anchor, c, positive, ~positive, margin=0.5, miner="hardest").loss
    )(candidates)
    np.testing.assert_allclose(grad, 0.5 * np.asarray(candidates) * [[1], [1], [-1], [-1]])


@pytest.mark.parametrize("miner", MINERS)
def test_order_and_padding_change_nothing(miner):
    x, (positive, negative) = _batch(2), _masks("both")

    def loss(x, rows, columns):
        found = _loss(
            x[rows], x[columns], positive[np.ix_(rows, columns)],
            negative[np.ix_(rows, columns)], margin=0.4, miner=miner,
        )  # fmt: skip
        return np.asarray(found)

    everyone = np.arange(len(x))
    wanted = loss(x, everyone, everyone)
    rng = np.random.default_rng(0)
    shuffled = loss(x, rng.permutation(everyone), rng.permutation(everyone))
    np.testing.assert_allclose(shuffled, wanted, rtol=1e-5)
    np.testing.assert_allclose(loss(x, everyone[:10], everyone[:10]), wanted, rtol=1e-5)
    moved = np.where(_ITEM[:, None] < 0, 1e3, x)
    np.testing.assert_allclose(loss(moved, everyone, everyone), wanted, rtol=1e-5)


@pytest.mark.parametrize("miner", MINERS)
def test_few_positives_at_a_time_equal_all_at_once(miner, monkeypatch):
    x, (positive, negative) = jnp.asarray(_batch(3)), _masks("any")

    def both():
        return jax.jit(
            jax.value_and_grad(
                lambda x: triplet_loss(x, x, positive, negative, margin=0.4, miner=miner).loss
            )
        )(x)

    wanted = both()
    five_columns = 5 * len(x) ** 2  # the last block has fewer
    monkeypatch.setattr(triplets, "_TRIPLETS_AT_ONCE", five_columns)
    for found, other in zip(both(), wanted, strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-7)


def test_all_triplets_of_a_large_batch_are_never_held():
    n = 1024

    def loss(x, positive, negative):
        return triplet_loss(x, x, positive, negative, margin=0.3).loss

    shapes = [jax.ShapeDtypeStruct((n, 64), jnp.float32)]
    shapes += [jax.ShapeDtypeStruct((n, n), bool)] * 2
    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n**3 * 4 / 8


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_eight_devices_equal_one(distance, miner):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 6))
    item, domain = rng.integers(0, 6, 32), np.arange(32) % 2
    found = []
    with jax.enable_x64(True):
        for devices in (1, 8):
            mesh = sharding.make_mesh(jax.devices()[:devices])

            @jax.jit
            @jax.value_and_grad
            def loss(x, item, domain, mesh=mesh):
                whole = jax.lax.with_sharding_constraint(
                    (x, item, domain), sharding.replicated(mesh)
                )
                masks = comparison_masks(item, whole[1], domain, whole[2])
                found = triplet_loss(
                    x, whole[0], *masks, margin=1.0, distance=distance, miner=miner
                )
                return found.loss

            found.append(loss(*sharding.place_batch((x, item, domain), mesh)))
    for one, eight in zip(*found, strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_equals_pytorch_metric_learning():
    reason = "pytorch-metric-learning is not installed: make parity"
    pml = pytest.importorskip("pytorch_metric_learning", reason=reason)
    torch = pytest.importorskip("torch", reason=reason)
    from pytorch_metric_learning import distances, losses, miners, reducers

    assert pml
    x, item = _batch(4)[:10], _ITEM[:10]
    positive, negative = comparison_masks(item, item)
    for name, power in (("squared_l2", 2), ("l2", 1)):
        distance = distances.LpDistance(normalize_embeddings=False, power=power)
        for miner in MINERS:
            chosen = {
                "all": lambda *_: None,
                "semi_hard": miners.TripletMarginMiner(
                    margin=0.4, type_of_triplets="semihard", distance=distance
                ),
                "hardest": miners.BatchHardMiner(distance=distance),
            }[miner]
            for reduction, reducer in (
                ("mean", reducers.MeanReducer()),
                ("mean_nonzero", reducers.AvgNonZeroReducer()),
            ):
                loss = losses.TripletMarginLoss(margin=0.4, distance=distance, reducer=reducer)
                tensor = torch.tensor(x, requires_grad=True)
                labels = torch.tensor(item)
                wanted = loss(tensor, labels, chosen(tensor, labels))
                wanted.backward()
                factor = 2 if name == "squared_l2" else 1
                with jax.enable_x64(True):
                    found, grad = jax.value_and_grad(
                        lambda x, o=(name, miner, reduction), f=factor: (
                            f
                            * _loss(
                                x,
                                x,
                                positive,
                                negative,
                                margin=0.4,
                                distance=o[0],
                                miner=o[1],
                                reduction=o[2],
                            ).loss
                        )
                    )(jnp.asarray(x))
                np.testing.assert_allclose(found, wanted.item(), rtol=1e-9)
                np.testing.assert_allclose(grad, tensor.grad.numpy(), atol=1e-9)


@pytest.mark.parametrize("name", ["distance", "miner", "reduction"])
def test_unknown_choices_are_named(name):
    x, mask = jnp.ones((2, 2)), jnp.ones((2, 2), bool)
    with pytest.raises(ValueError, match=f"{name}: 'nothing' is none of"):
        triplet_loss(x, x, mask, mask, margin=0.1, **{name: "nothing"})
