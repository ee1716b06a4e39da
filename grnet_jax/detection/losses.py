"""The five losses of a detector, each over the global batch."""

import jax
import jax.numpy as jnp
import optax

_BETA = 1 / 9  # of the smooth L1 loss: quadratic below it


def class_loss(logits: jax.Array, labels: jax.Array, drawn: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of logits [..., c] over what was drawn, bool [...]."""
    values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return _sum(values, drawn) / _count(drawn)


def objectness_loss(logits: jax.Array, positive: jax.Array, drawn: jax.Array) -> jax.Array:
    """Returns the mean binary cross-entropy of logits [...] over what was drawn, bool [...]."""
    values = optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    return _sum(values, drawn) / _count(drawn)


def box_loss(
    deltas: jax.Array, targets: jax.Array, positive: jax.Array, drawn: jax.Array
) -> jax.Array:
    """Returns the smooth L1 loss of deltas [..., 4], a sum over the positive by all drawn."""
    distance = jnp.abs(deltas - targets)
    values = jnp.where(distance < _BETA, distance**2 / (2 * _BETA), distance - _BETA / 2)
    return _sum(values.sum(axis=-1), positive & drawn) / _count(drawn)


def mask_loss(logits: jax.Array, targets: jax.Array, chosen: jax.Array) -> jax.Array:
    """Returns the mean binary cross-entropy of masks [..., m, m] over the chosen, bool [...]."""
    values = optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=(-2, -1))
    return _sum(values, chosen) / _count(chosen)


def _sum(values: jax.Array, chosen: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(chosen, values, 0))


def _count(chosen: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.sum(chosen), 1)
