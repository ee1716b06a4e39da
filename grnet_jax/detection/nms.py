"""Non-maximum suppression: exactly the greedy one, a tile of boxes at a time."""

import jax
import jax.numpy as jnp

from grnet_jax.detection.boxes import iou

_TILE = 256


def keep_best(
    boxes: jax.Array, valid: jax.Array, threshold: float, group: jax.Array | None = None
) -> jax.Array:
    """Returns which boxes greedy non-maximum suppression keeps, bool [n].

    From the first on, each box that is kept removes those behind it that overlap it by an IoU of
    more than the threshold.

    Args:
      boxes: [n, 4], those of the highest scores first.
      valid: bool [n]; others are neither kept nor remove any.
      threshold: IoU.
      group: int [n]; boxes of different groups leave each other alone. None: all are one group.
    """
    group = jnp.zeros(len(boxes), jnp.int32) if group is None else group
    kept = []
    for start in range(0, len(boxes), _TILE):
        tile = slice(start, start + _TILE)
        own, rest = (boxes[tile], group[tile]), (boxes[start + _TILE :], group[start + _TILE :])
        kept.append(_keep_in_tile(_removes(*own, *own, threshold), valid[tile]))
        if len(rest[0]):
            removed = jnp.any(_removes(*own, *rest, threshold) & kept[-1][:, None], axis=0)
            valid = valid.at[start + _TILE :].set(valid[start + _TILE :] & ~removed)
    return jnp.concatenate(kept)


def _removes(
    boxes: jax.Array, group: jax.Array, others: jax.Array, other_group: jax.Array, threshold: float
) -> jax.Array:
    return (iou(boxes, others) > threshold) & (group[:, None] == other_group)


def _keep_in_tile(removes: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the fixpoint of "a box is kept if none before it that is kept removes it".

    The first box is right after one round, and each round makes at least one more box right; as a
    rule a handful of rounds does.
    """
    removes = jnp.triu(removes, k=1)

    def improve(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        better = valid & ~jnp.any(removes & kept[:, None], axis=0)
        return better, jnp.any(better != kept)

    kept, _ = jax.lax.while_loop(lambda state: state[1], improve, (valid, jnp.any(valid)))
    return kept
