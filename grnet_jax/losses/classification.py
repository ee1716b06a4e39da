"""Losses over classes: cross-entropy, proxies, and the meta-classes of randomised ensembles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grnet_jax.losses.arrays import at_least_float32, masked_mean


def class_cross_entropy(
    logits: jax.Array, label: jax.Array, *, smoothing: float = 0.0
) -> jax.Array:
    """Mean cross-entropy in nats of the photos whose class is known; 0 where none is.

    Args:
      logits: [n, k].
      label: int [n]; a negative one is unknown and does not count.
      smoothing: the share of the label that all k classes have evenly (Szegedy et al., 2016).

    Returns:
      A number of at least float32. It is not a number where a label is k or more, so that
      training stops instead of leaving such photos out.
    """
    logits = at_least_float32(logits)
    classes = logits.shape[1]
    targets = jax.nn.one_hot(label, classes, dtype=logits.dtype)
    losses = optax.losses.softmax_cross_entropy(
        logits, optax.losses.smooth_labels(targets, smoothing)
    )
    return masked_mean(_nan_beyond(losses, label, classes), label >= 0)


def proxy_nca(
    logits: jax.Array, label: jax.Array, *, scale: float = 1.0, with_own: bool = False
) -> jax.Array:
    """Mean proxy-NCA loss of the photos whose class is known; 0 where none is.

    -log(exp(-s |x - p_y|^2) / sum over z of exp(-s |x - p_z|^2)) with unit vectors x and proxies p
    (Movshovitz-Attias et al., No Fuss Distance Metric Learning using Proxies, 2017). There the sum
    leaves out the own class y, and the loss can be negative.

    Args:
      logits: [n, k], -|x - p|^2 of every photo with every class's proxy; k at least 2.
      label: int [n]; a negative one is unknown and does not count.
      scale: s; 1 in the paper.
      with_own: the sum is over all classes, which makes it a softmax cross-entropy.

    Returns:
      A number of at least float32; not a number where a label is k or more.
    """
    logits = scale * at_least_float32(logits)
    classes = logits.shape[1]
    own = label[:, None] == jnp.arange(classes)[None, :]
    others = logits if with_own else jnp.where(own, -jnp.inf, logits)
    losses = jax.nn.logsumexp(others, axis=1) - jnp.sum(jnp.where(own, logits, 0.0), axis=1)
    return masked_mean(_nan_beyond(losses, label, classes), label >= 0)


def random_meta_classes(classes: int, groups: int, seed: int) -> np.ndarray:
    """Puts each class into one of several meta-classes at random, as evenly as can be.

    Xuan et al., Deep Randomized Ensembles for Metric Learning (2018): every member of the ensemble
    learns a grouping of its own, by its own seed.

    Args:
      classes: how many there are.
      groups: meta-classes, from 2 to `classes`.
      seed: from 0, of the grouping.

    Returns:
      int32 [classes], each class's meta-class; their sizes differ by 1 at most.

    Raises:
      ValueError: naming groups where there are too few or more than classes.
    """
    if not 2 <= groups <= classes:
        raise ValueError(f"groups: expected 2 to {classes}, the number of classes, got {groups}")
    order = np.random.default_rng(seed).permutation(classes)
    found = np.empty(classes, np.int32)
    found[order] = np.arange(classes) % groups
    return found


def _nan_beyond(losses: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    return jnp.where(label < classes, losses, jnp.nan)
