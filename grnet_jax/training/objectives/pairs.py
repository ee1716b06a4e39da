"""Same item or not, over all customer x shop pairs of a batch (GRNet)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax import models
from grnet_jax.losses import (
    best_scores,
    pair_cross_entropy,
    pair_labels,
    query_softmax_cross_entropy,
)
from grnet_jax.training.gradient_cache import embed_batch
from grnet_jax.training.objectives.base import Objective, check_sampler
from input_pipeline import Section, field


class Config(Section):
    """Cross-entropy over all customer x shop pairs of the batch."""

    name: Literal["pairs"] = "pairs"
    pair_weight: float = field(
        1.0,
        "of it and of the softmax over scores; 0 scores no pair, and embeddings learn alone",
        "parameters",
        ge=0,
    )
    leave_out_identical: bool = field(
        False,
        "leave out negatives whose shop image is byte for byte that of the customer's item in the "
        "batch: catalogs list one image under several items",
        "parameters",
    )
    query_softmax_weight: float = field(
        0.0,
        "of the softmax over each customer image's scores, beside the pair loss; the paper: 0",
        "parameters",
        ge=0,
    )
    shortlist: int = field(
        0,
        "score each customer image with so many shop images of the batch alone, its own and those "
        "nearest by embedding, as eval.search.shortlist does; 0: with all",
        "parameters",
        ge=0,
    )
    score_alone: bool = field(
        False,
        "pairs are scored without what model.embedding_score adds, so that the score learns what "
        "embeddings, which fit the training pairs soon, leave open for others",
        "parameters",
    )
    embedding_weight: float = field(
        0.0,
        "of the same softmax over inner products of embeddings, divided by embedding_temperature: "
        "makes them fit for eval.search.shortlist; the paper: 0",
        "parameters",
        ge=0,
    )
    embedding_temperature: float = field(0.05, "see embedding_weight", "parameters", gt=0)

    def check_config(self, config: Any) -> None:
        """Raises ValueError, naming the field, where the whole config does not fit the loss."""
        if not self.pair_weight and not self.embedding_weight:
            raise ValueError("loss.pair_weight, loss.embedding_weight: nothing learns with both 0")
        if self.score_alone and not hasattr(config.model, "embedding_score"):
            raise ValueError(
                f"loss.score_alone: model.name={config.model.name} has no embedding_score to leave "
                "out; expected grnet_aligned"
            )
        check_sampler(config, "pairs")


def embed_pairs(
    matcher: nn.Module,
    params: Any,
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    microbatch_size: int = 0,
    key: jax.Array | None = None,
) -> tuple[Any, Any, Any]:
    """Returns features of a batch's customer and shop images, and the new batch statistics.

    Both go through the network as one batch, customer and shop image of an item side by side, so
    that BatchNorm sees both and no device's rows move; with `microbatch_size` so many at once.
    `key` is dropout's.
    """
    items = batch["item"].shape[0]
    images = jax.tree.map(
        lambda *sides: jnp.stack(sides, axis=1).reshape(2 * items, *sides[0].shape[1:]),
        batch["customer"],
        batch["shop"],
    )
    features, batch_stats = embed_batch(
        matcher,
        params,
        batch_stats,
        images,
        microbatch_size=microbatch_size,
        group=2,
        key=key,
    )
    paired = jax.tree.map(lambda leaf: leaf.reshape(items, 2, *leaf.shape[1:]), features)
    customer = jax.tree.map(lambda leaf: leaf[:, 0], paired)
    shop = jax.tree.map(lambda leaf: leaf[:, 1], paired)
    return customer, shop, batch_stats


def build(matcher: nn.Module, config: Any, steps: int, index: Any) -> Objective:
    """Builds the loss of same item or not, over all customer x shop pairs of the global batch.

    `loss.leave_out_identical` leaves out negatives whose shop image is byte for byte that of
    the customer's item in the batch; `loss.query_softmax_weight` adds the softmax over each
    customer's shop images, `loss.embedding_weight` the same over the inner products of
    embeddings, divided by `loss.embedding_temperature`. With `loss.pair_weight` 0 no pair is
    scored, and embeddings learn alone; with `loss.score_alone` pairs are scored without them.
    """
    del steps, index
    loss, microbatch_size = config.loss, config.train.microbatch_size

    def objective(params, batch_stats, batch, replicate):
        key = jax.random.fold_in(jax.random.key(config.seed), batch["step"])
        customer, shop, batch_stats = embed_pairs(
            matcher, params, batch_stats, batch, microbatch_size, key
        )
        shop, item, content = replicate((shop, batch["item"], batch["content"]))
        same = pair_labels(batch["item"], item)
        mask = None
        if loss.leave_out_identical:
            mask = same | (batch["content"][:, None] != content[None, :])
        value, metrics = jnp.zeros(()), {}
        if loss.pair_weight:
            variables = {"params": params, "batch_stats": batch_stats}
            logits, scored, counted = _score_pairs(
                _make_score(matcher, variables, loss), customer, shop, same, mask, loss.shortlist
            )
            pairs = pair_cross_entropy(logits, scored, counted)
            if loss.query_softmax_weight:
                ranking = query_softmax_cross_entropy(logits, scored, counted)
                pairs = pairs + loss.query_softmax_weight * ranking
            value = loss.pair_weight * pairs
            best_positive, best_negative = best_scores(logits, scored, ~scored)
            metrics = {
                "batch_top1": jnp.mean(best_positive > best_negative),
                "positive_logit": jnp.mean(best_positive),
                "best_negative_logit": jnp.mean(best_negative),
            }
        if loss.embedding_weight:
            similarity = models.inner_products(customer, shop) / loss.embedding_temperature
            auxiliary = query_softmax_cross_entropy(similarity, same, mask)
            value = value + loss.embedding_weight * auxiliary
            best_positive, best_negative = best_scores(similarity, same, ~same)
            metrics |= {
                "embedding_loss": auxiliary,
                "embedding_batch_top1": jnp.mean(best_positive > best_negative),
            }
        return value, (batch_stats, {"loss": value, **metrics})

    return objective


def _make_score(
    matcher: nn.Module, variables: Any, loss: Any
) -> Callable[[models.Features, models.Features], jax.Array]:
    """Returns from features of queries and gallery images to what the pair loss sees, [q, g]."""

    def score(query: models.Features, gallery: models.Features) -> jax.Array:
        if not loss.score_alone:
            return models.score(matcher, variables, query, gallery)
        regions = query.regions, gallery.regions
        logits: Any = matcher.apply(variables, *regions, method="score_regions")
        return logits

    return score


def _score_pairs(
    score: Callable[[models.Features, models.Features], jax.Array],
    customer: models.Features,
    shop: models.Features,
    same: jax.Array,
    mask: jax.Array | None,
    shortlist: int,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns logits, `same` and `mask` of the pairs that are scored, [q, g] or [q, shortlist]."""
    if not 0 < shortlist < same.shape[1]:
        return score(customer, shop), same, mask
    similarity = jnp.where(same, jnp.inf, models.inner_products(customer, shop))
    if mask is not None:
        similarity = jnp.where(mask, similarity, -jnp.inf)
    _, nearest = jax.lax.top_k(similarity, shortlist)  # [q, shortlist]

    def score_listed(query: models.Features, rows: jax.Array) -> jax.Array:
        one = jax.tree.map(lambda leaf: leaf[None], query)
        chosen = jax.tree.map(lambda leaf: leaf[rows], shop)
        return score(one, chosen)[0]

    logits = jax.vmap(score_listed)(customer, nearest)
    take = functools.partial(jnp.take_along_axis, indices=nearest, axis=1)
    return logits, take(same), None if mask is None else take(mask)
