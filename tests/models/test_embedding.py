import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import embedding
from grnet_jax import models
from grnet_jax.errors import InputError
from grnet_jax.models.embedding import FeatureRelaxation, Pooling
from grnet_jax.training.state import init_variables


def _maps(n=2, side=3, channels=4):
    return np.random.default_rng(0).standard_normal((n, side, side, channels))


@pytest.mark.parametrize("power", [1.0, 3.0, 6.5])
def test_gem_equals_numpy(power):
    x = _maps()
    with jax.enable_x64(True):
        found = Pooling().apply({"params": {"power": jnp.asarray(power)}}, x)
    wanted = (np.maximum(x, 1e-6) ** power).mean(axis=(1, 2)) ** (1 / power)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_gems_gradients_equal_differences():
    x = np.abs(_maps()) + 0.1
    weight = np.random.default_rng(1).standard_normal((2, 4))

    def wanted(x, p):
        return ((x**p).mean(axis=(1, 2)) ** (1 / p) * weight).sum()

    def loss(x, p):
        return jnp.sum(Pooling().apply({"params": {"power": p}}, x) * weight)

    with jax.enable_x64(True):
        by_x, by_p = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, jnp.asarray(2.5))
    step = 1e-6
    difference = (wanted(x, 2.5 + step) - wanted(x, 2.5 - step)) / (2 * step)
    np.testing.assert_allclose(by_p, difference, rtol=1e-6)
    for place in [(0, 0, 0, 0), (1, 2, 1, 3)]:
        moved = np.zeros_like(x)
        moved[place] = step
        difference = (wanted(x + moved, 2.5) - wanted(x - moved, 2.5)) / (2 * step)
        np.testing.assert_allclose(by_x[place], difference, rtol=1e-6)


def test_gem_goes_from_the_average_to_the_maximum_within_float32():
    x = np.abs(_maps()).astype(np.float32) * 1e3
    for power, kind in ((1.0, "average"), (400.0, "max")):
        found = Pooling().apply({"params": {"power": power}}, x)
        np.testing.assert_allclose(found, Pooling(kind).apply({}, x), rtol=1e-2)
    np.testing.assert_allclose(Pooling("average").apply({}, x), x.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(Pooling("max").apply({}, x), x.max(axis=(1, 2)))


def test_relaxation_equals_numpy_and_drops_in_training_alone():
    x = _maps().astype(np.float32)
    module = FeatureRelaxation(channels=5, dropout=0.5)
    variables = module.init(jax.random.key(0), x)
    first, second = (
        jax.tree.map(np.asarray, variables["params"][name]) for name in ("first", "second")
    )
    inside = np.maximum(x @ first["kernel"][0, 0] + first["bias"], 0)
    wanted = inside @ second["kernel"][0, 0] + second["bias"]
    np.testing.assert_allclose(module.apply(variables, x), wanted, rtol=1e-4, atol=1e-5)
    rngs = {"dropout": jax.random.key(1)}
    dropped = module.apply(variables, x, train=True, rngs=rngs)
    assert not np.allclose(dropped, wanted, atol=1e-3)
    again = module.apply(variables, x, train=True, rngs=rngs)
    np.testing.assert_array_equal(dropped, again)


def _matcher(**fields):
    config = embedding.get_config()
    config.model.update_from_flattened_dict(fields)
    matcher = models.build_matcher(config.model)
    return matcher, init_variables(matcher, 32, seed=0)


def test_descriptor_is_the_linear_map_of_the_unit_pooled_vector():
    matcher, variables = _matcher(dim=6, classes=3)
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    x = models.feature_map(matcher, variables, photos)
    params = jax.tree.map(np.asarray, variables["params"])
    pooled = np.asarray(Pooling().apply({"params": params["pooled"]}, x))
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    wanted = unit @ params["linear"]["kernel"] + params["linear"]["bias"]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    features, logits = matcher.apply(variables, photos, method="classify")
    np.testing.assert_allclose(features.descriptor, wanted, rtol=1e-4, atol=1e-6)
    wanted = pooled @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)
    scores = models.score(matcher, variables, features, features)
    wanted = features.descriptor @ features.descriptor.T
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    assert models.has_feature_map(matcher)


def test_proxies_logits_are_squared_distances_and_replace_the_linear_head():
    matcher, variables = _matcher(dim=6, classes=3, proxies=True)
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    features, logits = matcher.apply(variables, photos, method="classify")
    assert "head" not in variables["params"]
    proxies = np.float64(variables["params"]["proxy"])
    proxies /= np.linalg.norm(proxies, axis=1, keepdims=True)
    apart = np.float64(features.descriptor)[:, None] - proxies[None]
    np.testing.assert_allclose(logits, -(apart**2).sum(axis=2), atol=1e-5)
    for fields in ({"dim": 0, "classes": 3}, {"classes": 1}):
        with pytest.raises(InputError, match=r"model\.proxies: needs model\.dim above 0"):
            _matcher(proxies=True, **fields)


def test_relaxation_before_the_classes_alone_leaves_the_descriptor():
    fields = {"dim": 0, "pooling": "average", "classes": 3, "relaxation.channels": 5}
    config = embedding.get_config()
    config.model.update_from_flattened_dict({**fields, "relaxation.path": "classes"})
    matcher, x = models.build_matcher(config.model), _maps().astype(np.float32)
    variables = matcher.init(jax.random.key(0), x, False, method="_describe")
    features, logits = matcher.apply(variables, x, False, method="_describe")
    wanted = np.float64(x).mean(axis=(1, 2))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(features.descriptor, wanted, atol=1e-5)
    params = jax.tree.map(np.float64, variables["params"])
    first, second = params["relaxation"]["first"], params["relaxation"]["second"]
    inside = np.maximum(x @ first["kernel"][0, 0] + first["bias"], 0)
    relaxed = (inside @ second["kernel"][0, 0] + second["bias"]).mean(axis=(1, 2))
    wanted = relaxed @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)


def test_relaxation_of_classes_without_a_head_is_refused():
    config = embedding.get_config()
    config.model.relaxation.update({"channels": 5, "path": "classes"})
    with pytest.raises(InputError, match=r"model\.relaxation\.path: 'classes', but model\.classes"):
        models.build_matcher(config.model)


def test_without_linear_layer_head_or_relaxation_there_are_no_parameters_for_them():
    assert _parameters(dim=0, pooling="max") == {"backbone"}
    found = _parameters(**{"relaxation.channels": 7, "classes": 3})
    assert found == {"backbone", "relaxation", "pooled", "linear", "head"}


def _parameters(**fields):
    config = embedding.get_config()
    config.model.update_from_flattened_dict(fields)
    matcher = models.build_matcher(config.model)
    return set(jax.eval_shape(lambda: init_variables(matcher, 32, seed=0))["params"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", -1),
        ("classes", -1),
        ("pooling", "sum"),
        ("dtype", "float99"),
        ("relaxation.channels", -1),
        ("relaxation.kernel", 0),
        ("relaxation.dropout", 1.0),
        ("relaxation.path", "both"),
    ],
)
def test_bad_fields_are_named(field, value):
    config = embedding.get_config()
    config.model.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"model\.{field}.*{value}"):
        models.build_matcher(config.model)
