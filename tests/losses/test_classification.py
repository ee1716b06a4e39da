import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import log_loss

from grnet_jax.losses import class_cross_entropy, proxy_nca, random_meta_classes
from grnet_jax.models.embedding import proxy_logits
from grnet_jax.models.matcher import unit_vectors
from tests.losses import naive

_LABEL = np.array([2, 0, -1, 3, 3, -1, 1])


def _logits(classes=5):
    return 2 * np.random.default_rng(0).standard_normal((len(_LABEL), classes))


def test_cross_entropy_equals_scikit_learn():
    logits, known = _logits(), _LABEL >= 0
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = log_loss(_LABEL[known], share[known], labels=range(5))
    found = class_cross_entropy(logits.astype(np.float32), _LABEL)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_equals_pytorch(smoothing):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
    logits = torch.tensor(_logits(), requires_grad=True)
    wanted = torch.nn.functional.cross_entropy(
        logits, torch.tensor(_LABEL), ignore_index=-1, label_smoothing=smoothing
    )
    wanted.backward()
    with jax.enable_x64(True):
        found, grad = jax.value_and_grad(class_cross_entropy)(
            jnp.asarray(_logits()), _LABEL, smoothing=smoothing
        )
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-12)
    np.testing.assert_allclose(grad, logits.grad.numpy(), atol=1e-12)


def test_unknown_labels_count_for_nothing_and_wrong_ones_are_noticed():
    logits = jnp.asarray(_logits(), jnp.float32)
    unknown = np.full(len(_LABEL), -1)
    for loss in (class_cross_entropy, proxy_nca):
        value, grad = jax.jit(jax.value_and_grad(loss))(logits, unknown)
        assert value == 0
        np.testing.assert_array_equal(grad, 0)
        assert np.isnan(loss(logits, np.where(_LABEL == 3, 5, _LABEL)))


def _naive_proxy_nca(x, proxies, scale):
    x, proxies = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, proxies))
    losses = []
    for row, label in zip(x, _LABEL, strict=True):
        if label >= 0:
            near = np.exp(-scale * ((row - proxies) ** 2).sum(axis=1))
            losses.append(-np.log(near[label] / (near.sum() - near[label])))
    return np.mean(losses)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_proxy_nca_equals_its_formula_and_differences(scale):
    rng = np.random.default_rng(1)
    x, proxies = rng.standard_normal((len(_LABEL), 3)), rng.standard_normal((4, 3))
    with jax.enable_x64(True):
        found, grads = jax.jit(
            jax.value_and_grad(
                lambda x, p: proxy_nca(proxy_logits(unit_vectors(x), p), _LABEL, scale=scale),
                argnums=(0, 1),
            )
        )(x, proxies)
    np.testing.assert_allclose(found, _naive_proxy_nca(x, proxies, scale), rtol=1e-9)
    wanted = naive.gradient(lambda x: _naive_proxy_nca(x, proxies, scale), x)
    np.testing.assert_allclose(grads[0], wanted, atol=1e-7)
    wanted = naive.gradient(lambda p: _naive_proxy_nca(x, p, scale), proxies)
    np.testing.assert_allclose(grads[1], wanted, atol=1e-7)


@pytest.mark.slow
def test_proxy_nca_equals_pytorch_metric_learning():
    reason = "pytorch-metric-learning is not installed: make parity"
    pytest.importorskip("pytorch_metric_learning", reason=reason)
    torch = pytest.importorskip("torch", reason=reason)
    from pytorch_metric_learning import losses

    rng = np.random.default_rng(2)
    x, proxies = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    label = _LABEL[_LABEL >= 0]
    loss = losses.ProxyNCALoss(num_classes=4, embedding_size=3, softmax_scale=6)
    loss.proxies.data = torch.tensor(proxies)
    wanted = loss(torch.tensor(x), torch.tensor(label)).item()
    with jax.enable_x64(True):
        logits = proxy_logits(unit_vectors(jnp.asarray(x)), proxies)[:, None]
        found = [proxy_nca(*row, scale=6.0) for row in zip(logits, label[:, None], strict=True)]
    # Its sum is over all classes: log((own + others) / own) of an image's log(others / own).
    np.testing.assert_allclose(np.mean(np.logaddexp(0, found)), wanted, rtol=1e-6)


def test_meta_classes_are_random_repeatable_and_a_classs_own():
    classes = np.arange(5000)
    found = np.asarray(random_meta_classes(classes, 20, group_seed=3))
    sizes = np.bincount(found, minlength=20)
    assert len(sizes) == 20
    assert scipy.stats.chisquare(sizes).pvalue > 1e-3
    again = jax.jit(lambda label: random_meta_classes(label, 20, group_seed=3))(classes[::-1])
    np.testing.assert_array_equal(found, again[::-1])
    other = random_meta_classes(classes, 20, group_seed=4)
    assert (found != other).mean() == pytest.approx(1 - 1 / 20, abs=0.02)
    unknown = random_meta_classes(np.array([-1, 7, -1]), 20, group_seed=3)
    np.testing.assert_array_equal(unknown, [-1, found[7], -1])
