"""Whitening and expansion against their definitions in float64."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

from grnet_jax.config import SearchConfig
from grnet_jax.errors import InputError
from grnet_jax.models import Features
from grnet_jax.search.features import InMemoryFeatures, read_all
from grnet_jax.search.postprocessing import (
    aggregate_neighbors,
    find_neighbors,
    learn_whitening,
    postprocess,
)
from grnet_jax.sharding import make_mesh

_Q, _G, _D = 13, 29, 6


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _vectors(n, seed, d=_D):
    return _unit(np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def _mesh(devices=8):
    return make_mesh(jax.devices()[:devices])


def _naive(embeddings, gallery, count, alpha):
    """Each embedding's expansion, one at a time."""
    embeddings, gallery = (rows.astype(np.float64) for rows in (embeddings, gallery))
    found = []
    for x in embeddings:
        similar = gallery @ x
        nearest = sorted(range(len(gallery)), key=lambda row: (-similar[row], row))[:count]
        total = x + sum(max(similar[row], 0.0) ** alpha * gallery[row] for row in nearest)
        found.append(total / np.linalg.norm(total))
    return np.array(found)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("count", [1, 4, _G])
def test_expansion_is_its_definition_on_any_number_of_devices(monkeypatch, count, alpha):
    query, gallery = _vectors(_Q, 0), _vectors(_G, 1)
    wanted = _naive(query, gallery, count, alpha)
    for devices, rows in ((8, 1024), (1, 5)):
        monkeypatch.setattr("grnet_jax.search.postprocessing._ROWS", rows)
        found = aggregate_neighbors(query, gallery, count, alpha, _mesh(devices))
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert found.dtype == np.float32


def test_of_equally_near_images_the_lower_row_is_taken():
    gallery = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 1]]
    found = find_neighbors(np.eye(3, dtype=np.float32)[[1, 2]], gallery, 3, _mesh())
    np.testing.assert_array_equal(found.indices, [[1, 2, 4], [3, 0, 1]])
    np.testing.assert_array_equal(found.scores, [[1, 1, 1], [1, 0, 0]])


def test_more_neighbors_than_there_are_is_an_error():
    gallery = _vectors(_G, 1)
    with pytest.raises(InputError, match=f"query_expansion=40: the gallery has {_G} images"):
        aggregate_neighbors(gallery, gallery, 40, 0.0, _mesh())


@pytest.mark.parametrize(("n", "dim"), [(40, 3), (40, 6), (6, 3)])
def test_whitening_is_scikit_learns(n, dim):
    rng = np.random.default_rng(0)
    learned = (rng.standard_normal((n, _D)) * np.arange(1, _D + 1)).astype(np.float32)
    seen = _vectors(_Q, 1)
    found = learn_whitening(learned, dim).apply(seen)
    peer = PCA(dim, whiten=True, svd_solver="full").fit(learned.astype(np.float64))
    expected = _unit(peer.transform(seen.astype(np.float64)))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


def test_directions_without_variance_are_left_out():
    learned = _vectors(50, 0)
    learned[:, 2] = 0.25
    assert learn_whitening(learned, 0).projection.shape == (_D, _D - 1)
    # Fewer images than numbers: one direction less than images.
    assert learn_whitening(_vectors(4, 0), 0).projection.shape == (_D, 3)
    with pytest.raises(InputError, match=r"whitening_dim=6: .* vary in 5 .* expected 0 to 5"):
        learn_whitening(learned, _D)
    for alike in (learned[:1], np.repeat(learned[:1], 9, axis=0)):
        with pytest.raises(InputError, match="all alike"):
            learn_whitening(alike, 0)


def test_the_steps_follow_each_other_and_stay_in_their_group():
    query, gallery = _vectors(_Q, 0), _vectors(_G, 1)
    regions = np.arange(_G * 4, dtype=np.float32).reshape(_G, 2, 2)
    groups = [
        (np.arange(0, 6), np.arange(0, _G, 2)),
        (np.arange(6, _Q), np.arange(1, _G, 2)),
        (np.arange(0), np.arange(0)),
    ]
    options = SearchConfig(
        whitening="gallery", whitening_dim=4, query_expansion=2, query_expansion_alpha=3.0
    )
    sources = InMemoryFeatures(Features(query)), InMemoryFeatures(Features(gallery, regions))
    expanded, whitened = postprocess(*sources, options, groups, _mesh())
    whitening = learn_whitening(gallery, 4)
    images = whitening.apply(gallery)
    for q, g in groups[:2]:
        found = expanded.take(q).embedding
        np.testing.assert_allclose(found, _naive(whitening.apply(query[q]), images[g], 2, 3.0),
                                   atol=1e-5)  # fmt: skip
    rows = np.array([4, 1])
    np.testing.assert_array_equal(whitened.take(rows).embedding, images[rows])
    np.testing.assert_array_equal(whitened.take(rows).regions, regions[rows])
    np.testing.assert_array_equal(whitened.embeddings().take(rows).embedding, images[rows])
    assert postprocess(*sources, SearchConfig(), groups, _mesh()) == sources
    # Learned on other images.
    other = InMemoryFeatures(Features(_vectors(50, 2)))
    options = SearchConfig(whitening="train", whitening_dim=3)
    found, _ = postprocess(*sources, options, groups, _mesh(), other)
    wanted = learn_whitening(other.features.embedding, 3).apply(query)
    np.testing.assert_array_equal(read_all(found).embedding, wanted)
