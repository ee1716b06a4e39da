"""Features averaged with the mirror image's against embedding both one by one."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from grnet_jax import models
from grnet_jax.errors import InputError
from grnet_jax.models import Features
from grnet_jax.search.embed import make_embed
from grnet_jax.sharding import make_mesh
from tests.small import random_images, random_variables, small_matcher


def _matcher(name):
    matcher = small_matcher(name)
    return matcher, random_variables(matcher)


def _embed(name, images, devices=1):
    matcher, variables = _matcher(name)
    mesh = make_mesh(jax.devices()[:devices])
    return make_embed(matcher, mesh, flip_average=True)(variables, images)


@pytest.mark.parametrize("devices", [1, 8])
def test_embeddings_are_the_mean_of_both(devices):
    matcher, variables = _matcher("color_histogram")
    images = random_images(8)
    found = _embed("color_histogram", images, devices).embedding
    both = (images, images[:, :, ::-1])
    mean = sum(np.asarray(models.embed(matcher, variables, one).embedding, float) for one in both)
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["grnet", "global_baseline", "kpm", "local_matching"])
def test_feature_maps_are_averaged_before_they_are_pooled(name):
    matcher, variables = _matcher(name)
    images = random_images(3)
    found = _embed(name, images)
    see = jax.jit(lambda seen: models.feature_map(matcher, variables, seen))
    one, two = (np.asarray(see(seen)) for seen in (images, images[:, :, ::-1]))
    mean = ((one + two[:, :, ::-1]) / 2).astype(np.float32)
    expected = matcher.apply(variables, mean, method="pool")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_an_image_and_its_mirror_image_look_alike():
    one, two = (
        _embed("grnet", seen).embedding for seen in (random_images(3), random_images(3)[:, :, ::-1])
    )
    np.testing.assert_allclose(one, two, atol=1e-5)


class _Regions(nn.Module):
    def embed(self, images, train=False):
        return Features(images.mean(axis=(1, 2)), images[:, 0])


def test_regions_without_a_feature_map_cannot_be_mirrored():
    with pytest.raises(InputError, match=r"search\.flip_average: .* no feature map"):
        models.embed_augmented(_Regions(), {}, random_images(3).astype(np.float32), True)
    assert not models.is_embedding_model(_Regions())
    assert models.is_embedding_model(_matcher("color_histogram")[0])
