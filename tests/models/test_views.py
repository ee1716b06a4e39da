"""Flips and crops against embedding the views one by one."""

import functools
import importlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from grnet_jax.retrieval.embedding import make_embed

from grnet_jax import models
from grnet_jax.errors import InputError
from grnet_jax.models import Features, Views
from grnet_jax.models.views import five_crops
from grnet_jax.sharding import make_mesh
from grnet_jax.training.state import init_variables

_SIZE = 32
_PLAIN = Views()


@functools.cache
def _matcher(name):
    matcher = models.build_matcher(importlib.import_module(f"configs.{name}").get_config().model)
    return matcher, init_variables(matcher, _SIZE, seed=0)


def _photos(n=3, size=_SIZE):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def _embed(name, photos, views=_PLAIN):
    return _jitted(name, views)(_matcher(name)[1], photos)


@functools.cache
def _jitted(name, views):
    return make_embed(_matcher(name)[0], make_mesh(jax.devices()[:1]), views)


def _unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _enlarged(crop, size):
    """Bilinear in float64 with half-pixel centres, edges repeated, one pixel at a time."""
    side = len(crop)
    places = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    low = np.floor(places).astype(int)
    high, share = np.minimum(low + 1, side - 1), places - low
    found = np.empty((size, size, 3))
    for y in range(size):
        for x in range(size):
            rows = [
                crop[j, low[x]] * (1 - share[x]) + crop[j, high[x]] * share[x]
                for j in (low[y], high[y])
            ]
            found[y, x] = rows[0] * (1 - share[y]) + rows[1] * share[y]
    return found


@pytest.mark.parametrize(("size", "share", "side"), [(32, 0.75, 24), (15, 0.6, 9), (9, 0.9, 8)])
def test_crops_are_corners_and_centre_enlarged(size, share, side):
    photos = _photos(2, size)
    crops = list(five_crops(photos, share))
    assert len(crops) == 5
    far, middle = size - side, (size - side) // 2
    for crop, (top, left) in zip(
        crops, [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)], strict=True
    ):
        assert crop.dtype == np.uint8
        for found, photo in zip(crop, photos.astype(np.float64), strict=True):
            expected = _enlarged(photo[top : top + side, left : left + side], size)
            np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize("flip", [False, True])
def test_descriptors_are_the_mean_over_the_views(flip):
    matcher, variables = _matcher("colour_histogram")
    photos = _photos()
    found = models.embed_views(matcher, variables, photos, Views(flip, 0.75))
    seen = [np.asarray(crop) for crop in five_crops(photos, 0.75)]
    seen += [crop[:, :, ::-1] for crop in seen] if flip else []
    views = [np.asarray(models.embed(matcher, variables, crop).descriptor) for crop in seen]
    np.testing.assert_allclose(found.descriptor, _unit(np.mean(views, axis=0)), atol=1e-6)


@pytest.mark.parametrize("name", ["grnet", "global_baseline", "kpm", "local_matching"])
def test_flips_average_feature_maps_before_they_are_pooled(name):
    matcher, variables = _matcher(name)
    photos = _photos()
    found = _embed(name, photos, Views(flip_average=True))
    see = jax.jit(lambda seen: models.feature_map(matcher, variables, seen))
    one, two = (np.asarray(see(seen)) for seen in (photos, photos[:, :, ::-1]))
    mean = ((one + two[:, :, ::-1]) / 2).astype(np.float32)
    expected = matcher.apply(variables, mean, method="pool")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_a_photo_and_its_mirror_image_look_alike():
    views = Views(flip_average=True)
    one, two = (
        _embed("grnet", seen, views).descriptor for seen in (_photos(), _photos()[:, :, ::-1])
    )
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_crops_leave_regions_those_of_the_whole_photo():
    photos = _photos()
    whole, found = (_embed("grnet", photos, views) for views in (_PLAIN, Views(False, 0.75)))
    np.testing.assert_allclose(found.regions, whole.regions, atol=1e-5)
    views = [_embed("grnet", np.asarray(crop)).descriptor for crop in five_crops(photos, 0.75)]
    np.testing.assert_allclose(found.descriptor, _unit(np.mean(views, axis=0)), atol=1e-5)


@pytest.mark.parametrize("views", [Views(True, 0.75), Views()])
def test_jit_and_devices_change_nothing(views):
    matcher, variables = _matcher("colour_histogram")
    photos = _photos(8)
    eager = models.embed_views(matcher, variables, photos, views).descriptor
    for devices in (1, 8):
        embed = make_embed(matcher, make_mesh(jax.devices()[:devices]), views)
        np.testing.assert_allclose(embed(variables, photos).descriptor, eager, atol=1e-6)


@pytest.mark.parametrize(("share", "side"), [(0.999, 32), (0.01, 0)])
def test_crops_of_all_or_nothing_are_refused(share, side):
    with pytest.raises(InputError, match=f"eval.five_crop_share={share}: .* would have {side}; "):
        list(five_crops(_photos(), share))


class _Regions(nn.Module):
    def embed(self, photos, train=False):
        return Features(photos.mean(axis=(1, 2)), photos[:, 0])


def test_regions_without_a_feature_map_cannot_be_mirrored():
    with pytest.raises(InputError, match=r"eval\.flip_average: .* no feature map"):
        models.embed_views(_Regions(), {}, _photos().astype(np.float32), Views(flip_average=True))
    assert not models.scores_by_descriptor(_Regions())
    assert models.scores_by_descriptor(_matcher("colour_histogram")[0])
