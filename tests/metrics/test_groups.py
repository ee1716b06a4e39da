import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from grnet_jax.metrics import (
    clustered_interval,
    clustered_intervals,
    group_means,
    group_members,
    group_sums,
)
from grnet_jax.sharding import make_mesh


def _case():
    rng = np.random.default_rng(0)
    members = rng.random((5, 64)) < [[0.5], [0.9], [0.1], [1.0], [0.0]]
    return rng.random((64, 3)).astype(np.float32), members


def test_means_of_overlapping_groups_are_those_of_each():
    values, members = _case()
    means, sums = group_means(values, members), group_sums(values, members)
    for group, mean, total in zip(members[:4], means, sums, strict=False):
        np.testing.assert_allclose(mean, values[group].astype(np.float64).mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(total, values[group].astype(np.float64).sum(axis=0), rtol=1e-6)
    assert np.isnan(means[4]).all()
    assert not np.any(np.asarray(sums[4]))


def test_groups_by_number_leave_out_who_has_none():
    groups = np.random.default_rng(1).integers(-1, 4, 64)
    members = np.asarray(group_members(groups, 5))
    for group in range(5):
        np.testing.assert_array_equal(members[group], groups == group)
    np.testing.assert_array_equal(members.sum(axis=0), groups >= 0)


def test_values_outside_every_group_do_not_count():
    values, members = _case()
    members = members[:3]
    members[:, 7] = False
    wanted = np.asarray(group_means(values, members))
    values[7] = np.nan
    np.testing.assert_array_equal(group_means(values, members), wanted)


def test_means_are_alike_jitted_and_on_eight_devices():
    values, members = _case()
    mesh = make_mesh()
    wanted = group_means(values, members)
    np.testing.assert_allclose(jax.jit(group_means)(values, members), wanted, rtol=1e-6)
    spread = (
        jax.device_put(values, NamedSharding(mesh, PartitionSpec("data"))),
        jax.device_put(members, NamedSharding(mesh, PartitionSpec(None, "data"))),
    )
    np.testing.assert_allclose(jax.jit(group_means)(*spread), wanted, rtol=1e-6)


def test_intervals_of_groups_are_those_of_each():
    values, members = _case()
    clusters = np.random.default_rng(2).integers(0, 20, 64)
    found = clustered_intervals(values, clusters, members)
    assert found.shape == (5, 3, 2)
    for g, group in enumerate(members):
        for m in range(3):
            wanted = clustered_interval(values[group, m], clusters[group])
            np.testing.assert_allclose(found[g, m], wanted)


def test_equal_values_that_no_float_holds_are_no_certainty():
    """Their mean differs from them by a rounding error, which is no variance."""
    values = np.full((30, 1), np.float32(0.1))
    low, high = clustered_intervals(values, np.arange(30), np.ones((1, 30), bool))[0, 0]
    assert high - low > 0.1
