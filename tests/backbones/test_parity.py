"""Blocks against PyTorch's, which the ImageNet checkpoints were made with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax.backbones.blocks import ConvNorm, max_pool

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
pytestmark = pytest.mark.slow


def _channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("size", range(5, 15))
def test_max_pool_is_pytorchs_ceil_mode(size, window, stride, padding):
    x = np.random.default_rng(0).standard_normal((1, size, size + 3, 2)).astype(np.float32)
    wanted = torch.nn.functional.max_pool2d(
        _channels_first(x), window, stride, padding, ceil_mode=True
    )
    found = max_pool(jnp.asarray(x), window, stride, padding)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(found), -1, 1), wanted.numpy())


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(7, 2, 3), (3, 1, 1), (3, 2, 1)])
def test_conv_norm_is_pytorchs_in_training_and_after(kernel, stride, padding, size):
    x = np.random.default_rng(0).standard_normal((4, size, size, 3)).astype(np.float32)
    ours = ConvNorm(5, kernel, stride, padding)
    variables = ours.init(jax.random.key(0), x, False)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, kernel, stride, padding, bias=False),
        torch.nn.BatchNorm2d(5, eps=1e-3),
        torch.nn.ReLU(),
    )
    weight = np.asarray(variables["params"]["conv"]["kernel"]).transpose(3, 2, 0, 1)
    theirs[0].weight.data = torch.from_numpy(weight.copy())

    found, updated = ours.apply(variables, x, True, mutable=["batch_stats"])
    wanted = theirs(_channels_first(x)).detach().numpy()
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), wanted, rtol=1e-4, atol=1e-5)
    statistics = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(statistics["mean"], theirs[1].running_mean, rtol=1e-4, atol=1e-6)
    # PyTorch keeps the unbiased variance, Flax the biased one.
    count = found.shape[0] * found.shape[1] * found.shape[2]
    batch = (np.asarray(statistics["var"]) - 0.9) / 0.1 * count / (count - 1)
    np.testing.assert_allclose(0.9 + 0.1 * batch, theirs[1].running_var, rtol=1e-4)

    theirs.eval()
    statistics = {"mean": theirs[1].running_mean.numpy(), "var": theirs[1].running_var.numpy()}
    variables = {"params": variables["params"], "batch_stats": {"bn": statistics}}
    wanted = theirs(_channels_first(x)).detach().numpy()
    found = ours.apply(variables, x, False)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), wanted, rtol=1e-4, atol=1e-5)
