"""Average precision as a loss, by histogram binning (Revaud et al., 2019)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import at_least_float32, masked_mean, safe_ratio


class ListwiseLoss(NamedTuple):
    """A loss over ranked lists.

    Attributes:
      loss: the mean over the queries that count; 0 where none does.
      queries: number of rows with any candidate, float32.
      queries_without: number of these without a positive, which do not count.
    """

    loss: jax.Array
    queries: jax.Array
    queries_without: jax.Array


def average_precision_loss(
    scores: jax.Array, positive: jax.Array, negative: jax.Array, *, bins: int = 20
) -> ListwiseLoss:
    """Computes the mean of 1 - AP over queries, each score shared by its two nearest bins.

    Revaud et al., Learning with Average Precision: Training Image Retrieval with a Listwise Loss
    (ICCV 2019). M bins have their centers at b_1 = 1, ..., b_M = -1, a step D apart;
    a score s has the weight max(0, 1 - |s - b_m| / D) in bin m, and lies in the outermost bin where
    rounding puts it beyond. AP is the sum over the bins of the precision of the
    bins up to m, times the fraction of the positives in bin m.

    With all scores on bin centers that is the exact AP, ties counted as scikit-learn counts
    them. Otherwise it stays below even with very many bins: a positive with the weight w in the
    first of its two bins, p positives and n negatives in bins before it, loses
    w (1 - w) n / ((n + p + 1) (n + p + w)), at most (3 - 2 sqrt 2) / 2 = 0.086. Its gradient comes
    from that sharing.

    Args:
      scores: [q, c], cosines in -1..1.
      positive: bool [q, c], each query's positives; a query without does not count.
      negative: bool [q, c].
      bins: M, at least 2.

    Raises:
      ValueError: naming bins where there are too few.
    """
    if bins < 2:
        raise ValueError(f"bins: expected 2 or more, got {bins}")
    scores = at_least_float32(scores)
    position = (1 - scores) * ((bins - 1) / 2)  # 0 for 1, bins - 1 for -1
    position = jnp.where(position < 0, 0.0, position)
    position = jnp.where(position > bins - 1, float(bins - 1), position)

    # One bin at a time, recomputed for the gradient: [q, bins, c] is never in memory.
    @jax.checkpoint
    def add_bin(before: tuple[jax.Array, jax.Array], number: jax.Array):
        weight = jax.nn.relu(1 - jnp.abs(position - number))  # [q, c]
        positives = jnp.sum(jnp.where(positive, weight, 0.0), axis=1)
        negatives = jnp.sum(jnp.where(negative, weight, 0.0), axis=1)
        tp, fp = before[0] + positives, before[1] + negatives
        return (tp, fp), safe_ratio(tp, tp + fp) * positives

    nothing = jnp.zeros_like(scores[:, 0])
    numbers = jnp.arange(bins, dtype=scores.dtype)
    _, parts = jax.lax.scan(add_bin, (nothing, nothing), numbers)  # [bins, q]
    counts = jnp.any(positive, axis=1)
    precision = safe_ratio(jnp.sum(parts, axis=0), jnp.sum(positive, axis=1))
    rows = jnp.any(positive | negative, axis=1)
    return ListwiseLoss(
        loss=masked_mean(1 - precision, counts),
        queries=jnp.sum(rows, dtype=scores.dtype),
        queries_without=jnp.sum(rows & ~counts, dtype=scores.dtype),
    )
