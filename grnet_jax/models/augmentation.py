"""Features averaged over an image and its mirror image."""

from typing import Any

import flax.linen as nn

from grnet_jax.errors import InputError
from grnet_jax.models.matcher import (
    Features,
    ImagesWithDomain,
    ImagesWithKeypoints,
    embed,
    feature_map,
    has_feature_map,
    unit_vectors,
)


def embed_augmented(
    matcher: nn.Module, variables: Any, images: Any, flip_average: bool
) -> Features:
    """Computes the matcher's `embed`, averaged over the image and its mirror image if asked.

    Where the matcher has a feature map, that of the mirrored images is mirrored back, the mean with
    the images' own is taken, and features are pooled from it; else the mean of both embeddings,
    scaled to length 1.

    Args:
      matcher: the Linen module.
      variables: the matcher's.
      images: uint8 [n, s, s, 3], or what the matcher embeds in their place.
      flip_average: whether the mirror image counts.

    Raises:
      InputError: a mirror image for a matcher that scores regions and has no feature map, or of
        images with keypoints or a domain, which would have to follow.
    """
    if not flip_average:
        return embed(matcher, variables, images)
    if isinstance(images, ImagesWithKeypoints | ImagesWithDomain):
        raise InputError(
            "eval.search.flip_average: images with keypoints, or for a matcher with a stream for "
            "each domain, are taken as they are; set it to false"
        )
    mirrored = images[:, :, ::-1]
    if has_feature_map(matcher):
        own = feature_map(matcher, variables, images)
        other = feature_map(matcher, variables, mirrored)[:, :, ::-1]
        features: Any = matcher.apply(variables, (own + other) / 2, method="pool")
        return features
    one, two = (embed(matcher, variables, seen) for seen in (images, mirrored))
    if one.regions is not None:
        raise InputError(
            "eval.search.flip_average: this matcher scores regions and has no feature map that "
            "could be mirrored back"
        )
    return Features(unit_vectors(one.embedding + two.embedding))
