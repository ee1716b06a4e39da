"""Losses over classes: cross-entropy, proxies, and the meta-classes of randomised ensembles."""

import jax
import jax.numpy as jnp
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


def random_meta_classes(label: jax.Array, groups: int, seed: int) -> jax.Array:
    """Each class's meta-class, drawn at random and the same wherever the class appears.

    Xuan et al., Deep Randomized Ensembles for Metric Learning (2018): every member of the ensemble
    learns a grouping of its own, by its own seed. Each class is drawn by itself, so that how many
    there are need not be known; meta-classes then differ in size as random draws do.

    Args:
      label: int [n], classes; negative ones are unknown and stay.
      groups: meta-classes.
      seed: from 0, of the grouping.

    Returns:
      int32 [n] in 0..groups - 1, or negative.
    """
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, groups))
    found = draw(jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), label))
    return jnp.where(label < 0, label, found)


def _nan_beyond(losses: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    return jnp.where(label < classes, losses, jnp.nan)
