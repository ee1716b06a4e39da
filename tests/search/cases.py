"""Matchers whose scores are known, features with ties, and a naive ranking of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.evaluation.protocols import positive_rows
from grnet_jax.models import Features
from grnet_jax.search.features import InMemoryFeatures


class Dot(nn.Module):
    """Scores by the inner product; embeds an image as its mean color."""

    def embed(self, images, train=False):
        return Features(images.mean(axis=(1, 2)))

    def score(self, query, gallery):
        return query.embedding @ gallery.embedding.T


class OfRegions(nn.Module):
    """Scores regions, and nothing of the embeddings."""

    def score(self, query, gallery):
        return jnp.einsum("qrc,grc->qg", query.regions, gallery.regions)


def make_case(seed=0, queries=21, gallery=35, regions=False):
    """Features of queries and gallery in whole numbers, and positives.

    Products are exact, and there are ties in embeddings and in regions.
    """
    rng = np.random.default_rng(seed)

    def features(n):
        embedding = rng.integers(-2, 3, (n, 4)).astype(np.float32)
        if not regions:
            return Features(embedding)
        return Features(embedding, rng.integers(-2, 3, (n, 2, 3)).astype(np.float32))

    query, images = features(queries), features(gallery)
    items = rng.integers(0, 12, queries), rng.integers(0, 11, gallery)
    return InMemoryFeatures(query), InMemoryFeatures(images), positive_rows(*items)


def naive_scores(query, gallery):
    """Inner products of embeddings, and of regions where there are any, in float64."""
    query, gallery = (jax.tree.map(np.float64, part.features) for part in (query, gallery))
    products = query.embedding @ gallery.embedding.T
    if query.regions is None:
        return products, products
    return products, np.einsum("qrc,grc->qg", query.regions, gallery.regions)


def naive_order(scores, rows, positives=()):
    """Rows of one query by their scores, best first; among equals positives are last."""
    return sorted(rows, key=lambda g: (-scores[g], g in positives, g))


def naive_ranks(orders, positives):
    """Where each query's positives stand in its order of the gallery."""
    ranks = np.zeros(positives.shape, int)
    for query, (order, rows) in enumerate(zip(orders, positives, strict=True)):
        found = [place for place, g in enumerate(order, start=1) if g in rows[rows >= 0]]
        ranks[query, : len(found)] = found
    return ranks
