"""Descriptors and feature maps averaged over views of a photo: its mirror image, and crops."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.errors import InputError
from grnet_jax.models.matcher import (
    DomainPhotos,
    Features,
    PointedPhotos,
    embed,
    feature_map,
    has_feature_map,
    unit_vectors,
)


class Views(NamedTuple):
    """What a photo's features are averaged over; fields of `config.eval`.

    Attributes:
      flip_average: the photo and its mirror image.
      five_crop_share: descriptors over the four corners and the centre, squares of this share of
        the photo's side; 0 for the whole photo.
    """

    flip_average: bool = False
    five_crop_share: float = 0.0


def make_views(evaluation: Any) -> Views:
    """The views that `config.eval` describes.

    Raises:
      InputError: naming the field that cannot be.
    """
    share = evaluation.five_crop_share
    if not 0 <= share < 1:
        raise InputError(
            f"eval.five_crop_share: expected 0 (the whole photo) to less than 1, got {share}"
        )
    return Views(bool(evaluation.flip_average), float(share))


def embed_views(matcher: nn.Module, variables: Any, photos: jax.Array, views: Views) -> Features:
    """The matcher's `embed`, averaged over views.

    The mirror image: where the matcher has a feature map, that of the mirrored photos is mirrored
    back, the mean with the photos' own is taken, and features are pooled from it; else the mean of
    both descriptors. The crops (Krizhevsky et al., NeurIPS 2012, section 4.1, who average
    predictions): the mean of their descriptors, of each crop as of a whole photo; regions stay
    those of the whole photo. Descriptors' means are scaled to length 1.

    Args:
      matcher: the Linen module.
      variables: the matcher's.
      photos: uint8 [n, s, s, 3], or what the matcher embeds in their place.
      views: to average over.

    Raises:
      InputError: crops as large as the photo, or a mirror image for a matcher that scores regions
        and has no feature map; or either of photos with points or a domain, which would have to
        follow.
    """
    if isinstance(photos, PointedPhotos | DomainPhotos) and views != Views():
        raise InputError(
            "eval.flip_average and eval.five_crop_share: photos with data.points, or for a matcher "
            "with a stream for each domain, are taken as they are; set both to 0"
        )
    features = _embed_flip(matcher, variables, photos, views.flip_average)
    if not views.five_crop_share:
        return features
    descriptors = [
        _embed_flip(matcher, variables, crop, views.flip_average).descriptor
        for crop in five_crops(photos, views.five_crop_share)
    ]
    return dataclasses.replace(features, descriptor=_mean_direction(descriptors))


def five_crops(photos: jax.Array, share: float) -> Iterator[jax.Array]:
    """The four corners, row by row, and the centre, at the photos' own size again.

    Args:
      photos: uint8 [n, s, s, 3].
      share: of the side s that a crop has, rounded to pixels; the centre's odd pixel is at its
        right and bottom.

    Yields:
      uint8 [n, s, s, 3] five times, enlarged bilinearly (half-pixel centres).

    Raises:
      InputError: naming the field where a crop has no pixel, or all of them.
    """
    size = photos.shape[1]
    side = round(share * size)
    if not 0 < side < size:
        raise InputError(
            f"eval.five_crop_share={share}: of photos of {size} pixels a crop would have {side}; "
            f"expected 1 to {size - 1}"
        )
    far, middle = size - side, (size - side) // 2
    for top, left in ((0, 0), (0, far), (far, 0), (far, far), (middle, middle)):
        crop = photos[:, top : top + side, left : left + side].astype(jnp.float32)
        large = jax.image.resize(crop, photos.shape, "bilinear", antialias=False)
        yield jnp.round(large).astype(jnp.uint8)


def _embed_flip(matcher: nn.Module, variables: Any, photos: jax.Array, flip: bool) -> Features:
    if not flip:
        return embed(matcher, variables, photos)
    mirrored = photos[:, :, ::-1]
    if has_feature_map(matcher):
        own = feature_map(matcher, variables, photos)
        other = feature_map(matcher, variables, mirrored)[:, :, ::-1]
        features: Any = matcher.apply(variables, (own + other) / 2, method="pool")
        return features
    one, two = (embed(matcher, variables, seen) for seen in (photos, mirrored))
    if one.regions is not None:
        raise InputError(
            "eval.flip_average: this matcher scores regions and has no feature map that could be "
            "mirrored back"
        )
    return Features(_mean_direction([one.descriptor, two.descriptor]))


def _mean_direction(descriptors: list[jax.Array]) -> jax.Array:
    """[n, d]: the mean of descriptors [n, d], scaled to length 1."""
    return unit_vectors(sum(descriptors[1:], descriptors[0]))
