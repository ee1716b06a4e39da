"""Functions of arrays that several losses share."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def at_least_float32(x: jax.Array) -> jax.Array:
    """Casts half precision to float32; float64 stays."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes the mean of the values that count; 0 where none does.

    Args:
      values: [...].
      mask: bool, the same shape.
    """
    return safe_ratio(jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask))


def safe_ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Divides; 0 with finite gradients where the denominator is not positive."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0.0)


def squared_distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes squared Euclidean distances [n, m] of rows of a [n, d] and b [m, d].

    |a|^2 + |b|^2 - 2 a.b in at least float32 has the rounding error of the squares, about 1e-7 for
    unit vectors; negative results, which come from rounding, are set to 0. The differences would be
    exact for near-duplicates but need n m d numbers.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    lengths = jnp.sum(jnp.square(a), axis=1)[:, None] + jnp.sum(jnp.square(b), axis=1)[None, :]
    # [n, d], [m, d] to [n, m]
    products = jnp.einsum("nd,md->nm", a, b, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(lengths - 2 * products, 0.0)


def check_choice(name: str, value: str, choices: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raises ValueError with the argument's name if its value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {sorted(choices)}")
