"""Triplet losses and miners.

A triplet is an anchor q, a positive d+ and a negative d-. Two masks, of
`candidates.comparison_masks`, say which candidates are positives and negatives: so one function
serves all images or customer against shop images, several positives, and padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import check_choice, safe_ratio, squared_distances

DISTANCES = ("squared_l2", "l2")
MINERS = ("all", "semi_hard", "hardest")
REDUCTIONS = ("mean", "mean_nonzero")
# Triplets that are in memory at once: 64 MiB in float32.
_TRIPLETS_AT_ONCE = 2**24


class TripletLoss(NamedTuple):
    """A triplet loss and its statistics; scalars of the distances' dtype.

    Attributes:
      loss: the mean over the triplets that count; 0 without any.
      triplets: number of triplets that count.
      active: the fraction of these with a loss above 0.
      anchors: number of rows with any candidate.
      anchors_without: number of these without a triplet that counts: without a positive, without a
        negative, or without a triplet that the miner takes.
    """

    loss: jax.Array
    triplets: jax.Array
    active: jax.Array
    anchors: jax.Array
    anchors_without: jax.Array


class _Sums(NamedTuple):
    """Per anchor, [a]: sum of hinges, triplets that count, triplets with a loss above 0."""

    hinges: jax.Array
    triplets: jax.Array
    active: jax.Array


def triplet_loss(
    anchors: jax.Array,
    candidates: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    margin: float,
    distance: str = "squared_l2",
    miner: str = "all",
    reduction: str = "mean",
) -> TripletLoss:
    """Computes the mean hinge of the triplets that a miner takes.

    With "squared_l2" a triplet's loss is 1/2 max(0, m + |q - d+|^2 - |q - d-|^2) (Kucer and Murray,
    2019), with "l2" max(0, m + |q - d+| - |q - d-|). Its gradient is 0 where the hinge is 0, and a
    distance of 0 has the gradient 0.

    Miners, by the same distances: "all" takes every anchor with each of its
    positives and negatives. "semi_hard" takes those with d+ < d- < d+ + m (Schroff et al., 2015):
    all of them, where the paper draws one. "hardest" takes of each anchor the farthest positive
    with the nearest negative (batch-hard; Hermans et al., 2017); where several tie, the loss is
    the same whichever is taken, and they share its gradient equally.

    Memory grows with the square of the batch: triplets are formed for a few positives at a time,
    and again for the gradient.

    Args:
      anchors: embeddings [a, d].
      candidates: embeddings [c, d].
      positive: bool [a, c], each anchor's positives, any number.
      negative: bool [a, c], its negatives.
      margin: m, in the unit of the distance.
      distance: "squared_l2" or "l2".
      miner: "all", "semi_hard" or "hardest".
      reduction: "mean" over all triplets that count; "mean_nonzero" over those with a loss above 0.

    Raises:
      ValueError: an argument is none of its choices.
    """
    check_choice("distance", distance, DISTANCES)
    check_choice("miner", miner, MINERS)
    check_choice("reduction", reduction, REDUCTIONS)
    distances = squared_distances(anchors, candidates)
    if distance == "l2":
        distances = _safe_sqrt(distances)
    if miner == "hardest":
        sums = _hardest(distances, positive, negative, margin)
    else:
        sums = _every(distances, positive, negative, margin, semi_hard=miner == "semi_hard")
    total, triplets, active = (jnp.sum(part) for part in sums)
    rows = jnp.any(positive | negative, axis=1)
    loss = safe_ratio(total, active if reduction == "mean_nonzero" else triplets)
    return TripletLoss(
        loss=0.5 * loss if distance == "squared_l2" else loss,
        triplets=triplets,
        active=safe_ratio(active, triplets),
        anchors=jnp.sum(rows, dtype=distances.dtype),
        anchors_without=jnp.sum(rows & (sums.triplets == 0), dtype=distances.dtype),
    )


def _hardest(
    distances: jax.Array, positive: jax.Array, negative: jax.Array, margin: float
) -> _Sums:
    counts = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    farthest = jnp.max(jnp.where(positive, distances, -jnp.inf), axis=1)
    nearest = jnp.min(jnp.where(negative, distances, jnp.inf), axis=1)
    # Infinities of rows without triplets are replaced first: their difference has no gradient.
    gap = margin + jnp.where(counts, farthest, 0.0) - jnp.where(counts, nearest, 0.0)
    return _sums(gap, counts)


def _every(
    distances: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    margin: float,
    *,
    semi_hard: bool,
) -> _Sums:
    # By columns and not by anchors: the axis of anchors may be sharded.
    @jax.checkpoint
    def column(part: tuple[jax.Array, jax.Array]) -> _Sums:
        to_positive, chosen = part  # [a] distances to one candidate, [a] whether it is a positive
        gap = margin + to_positive[:, None] - distances  # [a, c]
        counts = chosen[:, None] & negative
        if semi_hard:
            counts &= (distances > to_positive[:, None]) & (gap > 0)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=1), _sums(gap, counts))

    at_once = max(1, min(distances.shape[1], _TRIPLETS_AT_ONCE // max(distances.size, 1)))
    columns = jax.lax.map(column, (distances.T, positive.T), batch_size=at_once)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), columns)


def _sums(gap: jax.Array, counts: jax.Array) -> _Sums:
    """Returns float sums: the number of triplets of a large batch overflows int32."""
    hinge = jnp.where(counts, jax.nn.relu(gap), 0.0)
    return _Sums(hinge, counts.astype(gap.dtype), (hinge > 0).astype(gap.dtype))


def _safe_sqrt(x: jax.Array) -> jax.Array:
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
