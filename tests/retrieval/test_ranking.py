"""Ranking in blocks over devices, with a matcher whose answers are known."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import grnet
from grnet_jax.errors import InputError
from grnet_jax.mesh import make_mesh
from grnet_jax.metrics import positive_ranks
from grnet_jax.models import Features, build_matcher
from grnet_jax.retrieval.embedding import embed_rows, host_rows, make_embed
from grnet_jax.retrieval.ranking import make_score, prepare_score, rank_all
from grnet_jax.retrieval.tasks import positive_rows
from grnet_jax.training.state import init_variables


class InnerProduct(nn.Module):
    """Scores by the inner product; embeds a photo as its mean colour."""

    def embed(self, photos, train=False):
        return Features(descriptor=photos.mean(axis=(1, 2)))

    def score(self, query, gallery):
        return query.descriptor @ gallery.descriptor.T


def _case(seed=0, queries=21, gallery=35):
    rng = np.random.default_rng(seed)
    # Whole numbers: products are exact, and there are ties.
    query = Features(rng.integers(-3, 4, (queries, 4)).astype(np.float32))
    shop = Features(rng.integers(-3, 4, (gallery, 4)).astype(np.float32))
    return query, shop, rng.integers(0, 20, queries), rng.integers(0, 18, gallery)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("query_block", "gallery_block"), [(8, 16), (16, 7), (32, 64)])
def test_blocks_and_devices_change_nothing(devices, query_block, gallery_block):
    query, gallery, query_items, gallery_items = _case()
    positives = positive_rows(query_items, gallery_items)
    mesh = make_mesh(jax.devices()[:devices])
    seen = []
    found = rank_all(
        make_score(InnerProduct(), mesh),
        {},
        query,
        gallery,
        positives,
        query_block=query_block,
        gallery_block=gallery_block,
        top=5,
        mesh=mesh,
        progress=seen.append,
    )
    scores = query.descriptor @ gallery.descriptor.T
    np.testing.assert_array_equal(found.ranks, positive_ranks(scores, positives))
    np.testing.assert_array_equal(found.top_scores, -np.sort(-scores, axis=1)[:, :5])
    np.testing.assert_array_equal(
        np.take_along_axis(scores, found.top_rows, axis=1), found.top_scores
    )
    assert sum(seen) == len(scores)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_batches_side_by_side_are_all_rows_in_order(hosts):
    rows = np.arange(100, 121)
    parts = [host_rows(rows, 8, host, hosts).reshape(-1, 8 // hosts) for host in range(hosts)]
    together = np.concatenate(parts, axis=1).reshape(-1)
    np.testing.assert_array_equal(together[: len(rows)], rows)
    assert set(together[len(rows) :]) <= {120}


def test_embedding_keeps_the_order_and_drops_the_padding():
    photos = np.random.default_rng(0).integers(0, 256, (13, 4, 4, 3), dtype=np.uint8)
    mesh = make_mesh()

    def batches(rows, batch):
        for start in range(0, len(rows), batch):
            yield {"photo": photos[rows[start : start + batch]]}

    rows = np.array([5, 2, 11, 0, 12, 1, 7, 3, 9])
    found = embed_rows(make_embed(InnerProduct(), mesh), {}, batches, rows, batch=8, mesh=mesh)
    np.testing.assert_allclose(found.descriptor, photos[rows].mean(axis=(1, 2)), rtol=1e-5)


def test_a_block_that_devices_cannot_share_is_named():
    query, gallery, query_items, gallery_items = _case()
    with pytest.raises(InputError, match=r"eval\.query_block: 12 cannot"):
        rank_all(
            make_score(InnerProduct(), make_mesh()),
            {},
            query,
            gallery,
            positive_rows(query_items, gallery_items),
            query_block=12,
            gallery_block=8,
            top=1,
            mesh=make_mesh(),
        )


def test_grnet_ranks_alike_on_one_device_and_eight():
    config = grnet.get_config()
    config.model.node_dim, config.model.reasoning_dim = 16, 8
    matcher = build_matcher(config.model)
    variables = init_variables(matcher, 32, seed=0)
    photos = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    found = []
    for devices in (1, 8):
        mesh = make_mesh(jax.devices()[:devices])
        features = embed_rows(
            make_embed(matcher, mesh),
            variables,
            lambda rows, batch: (
                {"photo": photos[rows[i : i + batch]]} for i in range(0, len(rows), batch)
            ),
            np.arange(40),
            batch=16,
            mesh=mesh,
        )
        query, gallery = (
            jax.tree.map(lambda x, r=r: x[r], features) for r in np.split(np.arange(40), 2)
        )
        found.append(
            rank_all(
                make_score(matcher, mesh),
                prepare_score(matcher, variables, mesh),
                query,
                gallery,
                positive_rows(np.arange(20), np.arange(20)),
                query_block=8,
                gallery_block=8,
                top=20,
                mesh=mesh,
            )
        )
    one, eight = found
    np.testing.assert_allclose(one.top_scores, eight.top_scores, rtol=1e-5)
    np.testing.assert_array_equal(one.ranks, eight.ranks)
