"""Devices in order, and arrays placed on them."""

import types

import jax
import numpy as np
import pytest

from grnet_jax import sharding
from grnet_jax.errors import InputError


def test_devices_of_a_process_are_neighbors(monkeypatch):
    monkeypatch.setattr(sharding, "Mesh", lambda devices, axes, axis_types: devices.flat)
    wired = [types.SimpleNamespace(id=i, process_index=p) for i, p in enumerate([0, 1, 0, 1, 1, 0])]
    ordered = list(sharding.make_mesh(wired))
    assert [device.process_index for device in ordered] == [0, 0, 0, 1, 1, 1]
    assert [device.id for device in ordered] == [0, 2, 5, 1, 3, 4]


def test_batches_are_placed_in_order():
    devices = sharding.make_mesh()
    rows = np.arange(16)
    placed = sharding.place_batch({"row": rows}, devices)["row"]
    np.testing.assert_array_equal(placed, rows)
    assert placed.sharding.is_equivalent_to(sharding.sharded(devices), 1)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((8, 12), (8, 3)),  # the largest dimension that four divides
        ((3, 3, 16, 10), (3, 3, 4, 10)),
        ((5, 7), (5, 7)),
        ((16,), (16,)),
        ((), ()),
    ],
)
def test_parameters_are_divided_by_four_devices(shape, part):
    mesh = sharding.make_mesh(model_parallel=4)
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    placed = sharding.place_parameters(values, mesh)
    assert placed.sharding.shard_shape(shape) == part
    np.testing.assert_array_equal(sharding.gather(placed, mesh), values)
    assert placed.sharding.device_set == set(jax.devices())


def test_devices_that_cannot_be_divided_are_named():
    with pytest.raises(InputError, match=r"train\.model_parallel: 3 does not divide 8 devices"):
        sharding.make_mesh(model_parallel=3)
