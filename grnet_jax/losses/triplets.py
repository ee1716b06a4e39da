"""Triplet losses, and which triplets of a batch count.

A triplet is an anchor q, a positive d+ and a negative d-. Candidates come as two masks
(`candidates.comparison_masks`), so that one function serves photos of all domains and customer
photos against shop photos, several positives, and padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import check_choice, safe_ratio, squared_distances

FORMS = ("squared", "euclidean")
MINERS = ("all", "semi_hard", "hardest")
AVERAGES = ("triplets", "active")
# Numbers that are held at once where every triplet is looked at: 64 MiB in float32.
_HELD = 2**24


class TripletLoss(NamedTuple):
    """A triplet loss and what it was made of; all are numbers of the distances' dtype.

    Attributes:
      loss: the mean over the triplets that count; 0 where none does.
      triplets: how many count.
      active: the share of them with a loss above 0.
      anchors: rows with any candidate.
      anchors_without: those of them of which no triplet counts: without a positive, without a
        negative, or without a triplet that the miner takes.
    """

    loss: jax.Array
    triplets: jax.Array
    active: jax.Array
    anchors: jax.Array
    anchors_without: jax.Array


class _Sums(NamedTuple):
    """Per anchor, [a]: sum of the hinges, triplets that count, triplets above 0."""

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
    form: str = "squared",
    miner: str = "all",
    average: str = "triplets",
) -> TripletLoss:
    """Mean hinge of the triplets that a miner takes.

    With "squared" a triplet's loss is 1/2 max(0, m + |q - d+|^2 - |q - d-|^2) (Kucer and Murray,
    2019), with "euclidean" max(0, m + |q - d+| - |q - d-|). Its gradient is 0 where the hinge is,
    and a Euclidean distance of 0 has the gradient 0.

    Miners, on the distances that the form has: "all" takes every anchor with each of its
    positives and negatives. "semi_hard" takes those with d+ < d- < d+ + m (Schroff et al., 2015):
    all of them, where the paper draws one. "hardest" takes of each anchor the farthest positive
    with the nearest negative (batch-hard; Hermans et al., 2017); where several tie, the loss is
    the same whichever is taken, and they share its gradient equally.

    Memory grows with the square of the batch: every triplet is looked at a few positives at a
    time, and once more for the gradient.

    Args:
      anchors: embeddings [a, d].
      candidates: embeddings [c, d].
      positive: bool [a, c], each anchor's positives; no rows or several are as good as one.
      negative: bool [a, c], its negatives.
      margin: m, in the form's unit.
      form: "squared" or "euclidean".
      miner: "all", "semi_hard" or "hardest".
      average: over all "triplets" that count, or over those that are "active", above 0.

    Raises:
      ValueError: naming an argument that is none of its choices.
    """
    check_choice("form", form, FORMS)
    check_choice("miner", miner, MINERS)
    check_choice("average", average, AVERAGES)
    distances = squared_distances(anchors, candidates)
    if form == "euclidean":
        distances = _safe_sqrt(distances)
    if miner == "hardest":
        sums = _hardest(distances, positive, negative, margin)
    else:
        sums = _every(distances, positive, negative, margin, semi_hard=miner == "semi_hard")
    total, triplets, active = (jnp.sum(part) for part in sums)
    rows = jnp.any(positive | negative, axis=1)
    loss = safe_ratio(total, active if average == "active" else triplets)
    return TripletLoss(
        loss=0.5 * loss if form == "squared" else loss,
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
    # Infinities of rows without triplets go before they meet: their difference has no gradient.
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
    # One column after the other and not one anchor: the anchors' axis may be shared by devices.
    @jax.checkpoint
    def column(part: tuple[jax.Array, jax.Array]) -> _Sums:
        own, chosen = part  # [a] distances of one candidate, [a] whether it is a positive
        gap = margin + own[:, None] - distances  # [a, c]
        counts = chosen[:, None] & negative
        if semi_hard:
            counts &= (distances > own[:, None]) & (gap > 0)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=1), _sums(gap, counts))

    at_once = max(1, min(distances.shape[1], _HELD // max(distances.size, 1)))
    columns = jax.lax.map(column, (distances.T, positive.T), batch_size=at_once)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), columns)


def _sums(gap: jax.Array, counts: jax.Array) -> _Sums:
    """As float numbers: the triplets of a large batch are more than an int32 holds."""
    hinge = jnp.where(counts, jax.nn.relu(gap), 0.0)
    return _Sums(hinge, counts.astype(gap.dtype), (hinge > 0).astype(gap.dtype))


def _safe_sqrt(x: jax.Array) -> jax.Array:
    some = x > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, x, 1.0)), 0.0)
