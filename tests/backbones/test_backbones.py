import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax.backbones import build_backbone, normalise
from grnet_jax.backbones.blocks import max_pool

_MAPS = {
    "googlenet": {4: 192, 8: 480, 16: 832, 32: 1024},
    "small": {2: 32, 4: 64, 8: 128},
}


@pytest.mark.parametrize("name", _MAPS)
def test_maps_have_their_strides_and_channels(name):
    backbone = build_backbone(name)
    shapes = jax.eval_shape(
        lambda photos: backbone.init_with_output(jax.random.key(0), photos)[0],
        jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32),
    )
    found = {stride: (leaf.shape[1], leaf.shape[-1]) for stride, leaf in shapes.items()}
    assert found == {stride: (224 // stride, c) for stride, c in _MAPS[name].items()}


def test_googlenet_has_the_references_parameter_count():
    shapes = jax.eval_shape(
        build_backbone("googlenet").init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    # torchvision's GoogLeNet without the auxiliary heads has 6,624,904, its classifier
    # 1024 x 1000 weights and 1000 biases.
    assert count == 6_624_904 - 1024 * 1000 - 1000


def _naive_ceil_pool(x, window, stride, padding):
    """PyTorch's rule, cell by cell."""
    _, height, width, _ = x.shape

    def steps(size):
        count = int(np.ceil((size + 2 * padding - window) / stride)) + 1
        return count - 1 if (count - 1) * stride >= size + padding else count

    out = np.full((x.shape[0], steps(height), steps(width), x.shape[-1]), -np.inf)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            top, left = i * stride - padding, j * stride - padding
            part = x[:, max(top, 0) : top + window, max(left, 0) : left + window]
            out[:, i, j] = part.max(axis=(1, 2))
    return out


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("shape", [(112, 112), (7, 9), (8, 5)])
def test_max_pool_equals_the_naive_ceil_mode(shape, window, stride, padding):
    x = np.random.default_rng(0).standard_normal((1, *shape, 2)).astype(np.float32)
    found = max_pool(jnp.asarray(x), window, stride, padding)
    np.testing.assert_array_equal(found, _naive_ceil_pool(x, window, stride, padding))


def test_normalise_is_imagenets():
    photo = np.full((1, 1, 1, 3), 255, np.uint8)
    wanted = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalise(photo, "imagenet")[0, 0, 0], wanted, rtol=1e-6)
