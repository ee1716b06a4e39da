"""Average precision as a loss, by histograms (Revaud et al., 2019)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import at_least_float32, masked_mean, safe_ratio


class ListwiseLoss(NamedTuple):
    """A loss over ranked lists.

    Attributes:
      loss: the mean over the queries that count; 0 where none does.
      queries: rows with any candidate, float32.
      queries_without: those of them without a positive, which do not count.
    """

    loss: jax.Array
    queries: jax.Array
    queries_without: jax.Array


def average_precision_loss(
    scores: jax.Array, positive: jax.Array, negative: jax.Array, *, bins: int = 20
) -> ListwiseLoss:
    """1 - AP, averaged over queries, every score shared by the two histogram bins next to it.

    Revaud et al., Learning with Average Precision: Training Image Retrieval with a Listwise Loss
    (ICCV 2019). M bins have their centres at b_1 = 1, ..., b_M = -1, a step D apart;
    a score s has the weight max(0, 1 - |s - b_m| / D) in bin m, and lies in the outermost bin where
    rounding puts it beyond. AP is the sum over the bins of the precision among all that lies in
    the bins up to m, times the share of the positives in bin m.

    With all scores on bins' centres that is the exact AP, ties counted as scikit-learn counts
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
    place = (1 - scores) * ((bins - 1) / 2)  # 0 for 1, bins - 1 for -1
    place = jnp.where(place < 0, 0.0, jnp.where(place > bins - 1, float(bins - 1), place))

    # One bin after the other, again for the gradient: nothing of size [q, bins, c] is ever held.
    @jax.checkpoint
    def add_bin(before: tuple[jax.Array, jax.Array], number: jax.Array):
        weight = jax.nn.relu(1 - jnp.abs(place - number))  # [q, c]
        found = jnp.sum(jnp.where(positive, weight, 0.0), axis=1)
        others = jnp.sum(jnp.where(negative, weight, 0.0), axis=1)
        right, wrong = before[0] + found, before[1] + others
        return (right, wrong), safe_ratio(right, right + wrong) * found

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
