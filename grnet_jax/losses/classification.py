"""Losses over classes: cross-entropy, proxies, and meta-classes of randomized ensembles."""

import jax
import jax.numpy as jnp
import optax

from grnet_jax.losses.arrays import at_least_float32, masked_mean


def class_cross_entropy(
    logits: jax.Array, label: jax.Array, *, smoothing: float = 0.0
) -> jax.Array:
    """Computes mean cross-entropy in nats over images of known class; 0 without any.

    Args:
      logits: [n, k].
      label: int [n]; a negative one is unknown and does not count.
      smoothing: label smoothing, the mass spread evenly over all k classes (Szegedy et al., 2016).

    Returns:
      A scalar of at least float32; NaN if a label is k or more, so that training stops instead of
      ignoring such images.
    """
    logits = at_least_float32(logits)
    classes = logits.shape[1]
    targets = jax.nn.one_hot(label, classes, dtype=logits.dtype)
    losses = optax.losses.softmax_cross_entropy(
        logits, optax.losses.smooth_labels(targets, smoothing)
    )
    return masked_mean(_nan_beyond(losses, label, classes), label >= 0)


def proxy_nca(logits: jax.Array, label: jax.Array, *, scale: float = 1.0) -> jax.Array:
    """Computes the mean proxy-NCA loss over images of known class; 0 without any.

    -log(exp(-s |x - p_y|^2) / sum over z of exp(-s |x - p_z|^2)) with unit vectors x and proxies p
    (Movshovitz-Attias et al., No Fuss Distance Metric Learning using Proxies, 2017). There the sum
    leaves out the image's class y, and the loss can be negative.

    Args:
      logits: [n, k], -|x - p|^2 of every image with every class's proxy; k at least 2.
      label: int [n]; a negative one is unknown and does not count.
      scale: s; 1 in the paper.

    Returns:
      A scalar of at least float32; NaN if a label is k or more.
    """
    logits = scale * at_least_float32(logits)
    classes = logits.shape[1]
    own = label[:, None] == jnp.arange(classes)[None, :]
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=1)
    losses = others - jnp.sum(jnp.where(own, logits, 0.0), axis=1)
    return masked_mean(_nan_beyond(losses, label, classes), label >= 0)


def random_meta_classes(label: jax.Array, num_groups: int, group_seed: int) -> jax.Array:
    """Maps each class to a random meta-class, the same wherever the class appears.

    Xuan et al., Deep Randomized Ensembles for Metric Learning (2018): every member of the ensemble
    learns another grouping, by its seed. Classes are drawn independently, so that their number need
    not be known; the sizes of meta-classes differ accordingly.

    Args:
      label: int [n], classes; negative ones are unknown and stay.
      num_groups: number of meta-classes.
      group_seed: of the grouping, from 0.

    Returns:
      int32 [n] in 0..num_groups - 1, or negative.
    """
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_groups))
    groups = draw(jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(group_seed), label))
    return jnp.where(label < 0, label, groups)


def _nan_beyond(losses: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    return jnp.where(label < classes, losses, jnp.nan)
