"""What anchors and proposals should become: the targets of training, of one image."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from grnet_jax.detection import boxes as box_ops
from grnet_jax.detection import matching
from grnet_jax.detection.proposals import BOX_WEIGHTS, RPN_WEIGHTS, Proposals

_ANCHORS, _POSITIVE_ANCHORS = 256, 128  # of each image
_POSITIVE_PROPOSALS = 4  # at most every fourth
_IN_CROWD = 0.7  # share of a box's area that keeps it from being background


class Targets(NamedTuple):
    """What k boxes should become; those that are no `drawn` count for nothing.

    Attributes:
      box: int32 [k], numbers of the boxes among those drawn from.
      positive: bool [k], which are objects; the first ones.
      drawn: bool [k].
      object: int32 [k], the object of each positive one.
      deltas: [k, 4], from the box to its object.
    """

    box: jax.Array
    positive: jax.Array
    drawn: jax.Array
    object: jax.Array
    deltas: jax.Array


def anchor_targets(key: jax.Array, anchors: jax.Array, objects: Mapping[str, jax.Array]) -> Targets:
    """Draws anchors to train on.

    Args:
      key: of the drawing.
      anchors: [a, 4].
      objects: of an image, as `object_batches` yields them: box [m, 4]; valid, ignore, [m].
    """
    overlap = box_ops.iou(objects["box"], anchors)
    matched = matching.match(overlap, _real(objects), 0.3, 0.7, every_object=True)
    return _draw(key, anchors, matched, objects, _ANCHORS, _POSITIVE_ANCHORS, RPN_WEIGHTS)


def proposal_targets(
    key: jax.Array, proposals: Proposals, objects: Mapping[str, jax.Array], count: int
) -> tuple[jax.Array, Targets]:
    """Draws `count` boxes to train on among the proposals and the objects themselves.

    Returns:
      The boxes [count, 4], and what they should become.
    """
    boxes = jnp.concatenate([proposals.box, objects["box"]])
    there = jnp.concatenate([proposals.valid, _real(objects)])
    overlap = box_ops.iou(objects["box"], boxes)
    matched = matching.match(overlap, _real(objects), 0.5, 0.5)
    matched = jnp.where(there, matched, matching.IGNORED)
    most = count // _POSITIVE_PROPOSALS
    targets = _draw(key, boxes, matched, objects, count, most, BOX_WEIGHTS)
    return boxes[targets.box], targets


def _real(objects: Mapping[str, jax.Array]) -> jax.Array:
    """Returns which objects are to be found, bool [m]: no padding, no crowd."""
    return objects["valid"] & ~objects["ignore"]


def _draw(
    key: jax.Array,
    boxes: jax.Array,
    matched: jax.Array,
    objects: Mapping[str, jax.Array],
    count: int,
    most_positive: int,
    weights: tuple[float, ...],
) -> Targets:
    inside = box_ops.intersection(objects["box"], boxes)
    crowd = (objects["valid"] & objects["ignore"])[:, None]
    in_crowd = jnp.any(crowd & (inside >= _IN_CROWD * box_ops.area(boxes)), axis=0)
    negative = (matched == matching.NEGATIVE) & ~in_crowd
    index, positive, drawn = matching.sample(key, matched >= 0, negative, count, most_positive)
    owner = jnp.where(positive, matched[index], 0)
    deltas = box_ops.encode(objects["box"][owner], boxes[index], weights)
    return Targets(index, positive, drawn, owner, jnp.where(positive[:, None], deltas, 0))
