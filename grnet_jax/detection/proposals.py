"""From a network's predictions to boxes: proposals, and the detections among them; one image."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from grnet_jax.detection import boxes as box_ops
from grnet_jax.detection.nms import keep_best

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_PROPOSAL_IOU, _DETECTION_IOU = 0.7, 0.5
_SMALLEST_PROPOSAL, _SMALLEST_DETECTION = 1e-3, 1e-2  # sides in pixels


class Proposals(NamedTuple):
    """Boxes that may be objects, best first: box [p, 4], valid bool [p]."""

    box: jax.Array
    valid: jax.Array


def propose(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    size: jax.Array,
    before: int,
    after: int,
) -> Proposals:
    """Returns the best boxes of all levels, at most `after`.

    Args:
      logits: of each level, [a].
      deltas: of each level, [a, 4].
      anchors: of each level, [a, 4].
      size: (height, width) of the image without padding.
      before: of each level so many are looked at.
      after: so many are kept.
    """
    most = min(before, max(len(level) for level in logits))
    found, scores = [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        best, index = jax.lax.top_k(level_logits, min(before, len(level_logits)))
        box = box_ops.decode(level_deltas[index], jnp.asarray(level_anchors)[index], RPN_WEIGHTS)
        missing = most - len(best)
        found.append(jnp.pad(box, ((0, missing), (0, 0))))
        scores.append(jnp.pad(best, (0, missing), constant_values=-jnp.inf))
    box, score = box_ops.clip(jnp.stack(found), size), jnp.stack(scores)  # [levels, most]
    valid = box_ops.is_larger(box, _SMALLEST_PROPOSAL) & (score > -jnp.inf)
    kept = jax.vmap(lambda b, v: keep_best(b, v, _PROPOSAL_IOU))(box, valid)
    score = jnp.where(kept, score, -jnp.inf).reshape(-1)
    score, index = jax.lax.top_k(score, min(after, len(score)))
    return Proposals(box.reshape(-1, 4)[index], score > -jnp.inf)


class Chosen(NamedTuple):
    """Detections, best first: box [d, 4], score [d], label [d] (1 is the first class), objectness
    [d], valid bool [d].

    Objectness is the probability of all classes together. The proposal head's own is below 1/2 for
    many objects until it has trained for long.
    """

    box: jax.Array
    score: jax.Array
    label: jax.Array
    objectness: jax.Array
    valid: jax.Array


def choose_detections(
    logits: jax.Array,
    deltas: jax.Array,
    proposals: Proposals,
    size: jax.Array,
    *,
    candidates: int,
    most: int,
    threshold: float,
) -> Chosen:
    """Returns the best boxes of all classes, suppressed within each class.

    It is exactly torchvision's choice wherever no more than `candidates` scores pass the threshold,
    or `most` of the candidates survive.

    Args:
      logits: [p, c], background first.
      deltas: [p, c, 4].
      proposals: p of them.
      size: (height, width) of the image without padding.
      candidates: boxes that are looked at.
      most: detections.
      threshold: scores that are not above it are left out.
    """
    probabilities = jax.nn.softmax(logits)
    scores = jnp.where(proposals.valid[:, None], probabilities[:, 1:], 0).reshape(-1)
    classes = logits.shape[1] - 1
    score, index = jax.lax.top_k(scores, min(candidates, len(scores)))
    proposal, label = index // classes, index % classes + 1
    box = box_ops.decode(deltas[proposal, label], proposals.box[proposal], BOX_WEIGHTS)
    box = box_ops.clip(box, size)
    valid = (score > threshold) & box_ops.is_larger(box, _SMALLEST_DETECTION)
    kept = keep_best(box, valid, _DETECTION_IOU, label)
    score, best = jax.lax.top_k(jnp.where(kept, score, 0), min(most, len(score)))
    objectness = 1 - probabilities[proposal[best], 0]
    return Chosen(box[best], score, label[best], objectness, score > 0)
