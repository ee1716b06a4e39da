"""Means of figures over groups of queries that may overlap, all in one product."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def group_members(groups: ArrayLike, count: int) -> jax.Array:
    """Which queries belong to each of `count` groups, bool [count, q].

    Args:
      groups: int [q], each query's group from 0; -1 for a query of no group.
      count: number of groups.
    """
    return jnp.asarray(groups)[None, :] == jnp.arange(count)[:, None]


def group_sums(values: ArrayLike, members: ArrayLike) -> jax.Array:
    """Sums over the queries of each group, float32 [g, m].

    Args:
      values: [q, m]; what stands in queries of no group is not looked at, NaN included.
      members: bool [g, q], of `group_members`, or of protocols that overlap.
    """
    members = jnp.asarray(members, jnp.float32)
    counted = jnp.any(members > 0, axis=0)
    values = jnp.where(counted[:, None], jnp.asarray(values, jnp.float32), 0.0)
    # Highest: an accelerator's default would round the values to 8 or 11 bits.
    return jnp.einsum("gq,qm->gm", members, values, precision=jax.lax.Precision.HIGHEST)


def group_means(values: ArrayLike, members: ArrayLike) -> jax.Array:
    """Means over the queries of each group, float32 [g, m]; NaN for a group without queries.

    Arguments as of `group_sums`.
    """
    counts = jnp.sum(jnp.asarray(members, bool), axis=1)
    sums = group_sums(values, members)
    return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], jnp.nan)
