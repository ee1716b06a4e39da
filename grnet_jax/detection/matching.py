"""Which object each anchor or proposal stands for, and which of them are trained on."""

import jax
import jax.numpy as jnp

NEGATIVE, IGNORED = -1, -2


def match(
    overlap: jax.Array, valid: jax.Array, low: float, high: float, *, every_object: bool = False
) -> jax.Array:
    """Returns each box's object, int32 [n]; NEGATIVE below `low`, IGNORED from there to `high`.

    Args:
      overlap: [m, n], IoU of m padded objects and n boxes.
      valid: bool [m], which objects are there.
      low: IoU below which a box is background.
      high: IoU from which it is its object's.
      every_object: the boxes that overlap an object most are matched too, however little, to the
        objects that they themselves overlap most.
    """
    overlap = jnp.where(valid[:, None], overlap, -1)
    best, index = overlap.max(axis=0), overlap.argmax(axis=0).astype(jnp.int32)
    matched = jnp.where(best < low, NEGATIVE, jnp.where(best < high, IGNORED, index))
    if every_object:
        most = overlap.max(axis=1, keepdims=True)
        # An object that nothing overlaps would tie with every box.
        matched = jnp.where(((overlap == most) & (most > 0)).any(axis=0), index, matched)
    return matched


def sample(
    key: jax.Array, positive: jax.Array, negative: jax.Array, count: int, most_positive: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws boxes to train on, uniformly among the positive and among the negative.

    Args:
      key: of the drawing.
      positive: bool [n].
      negative: bool [n].
      count: of boxes.
      most_positive: at most so many of them are positive.

    Returns:
      int32 [count], their indices, the positive first; bool [count], which are positive; bool
      [count], which were drawn: there may be too few.
    """
    count = min(count, len(positive))
    most_positive = min(most_positive, count)
    keys = jax.random.uniform(key, positive.shape)
    best, chosen = jax.lax.top_k(jnp.where(positive, keys, -1), most_positive)
    positives = jnp.sum(best >= 0)
    others_best, others = jax.lax.top_k(jnp.where(negative, keys, -1), count)
    place = jnp.arange(count)
    is_positive = place < positives
    chosen = jnp.pad(chosen, (0, count - most_positive))
    index = jnp.where(is_positive, chosen, others[place - positives])
    return index, is_positive, is_positive | (others_best[place - positives] >= 0)
