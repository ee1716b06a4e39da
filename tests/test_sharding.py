"""Devices in order, and arrays placed on them."""

import types

import numpy as np

from grnet_jax import sharding


def test_devices_of_a_process_are_neighbors(monkeypatch):
    monkeypatch.setattr(sharding, "Mesh", lambda devices, axes, axis_types: devices)
    wired = [types.SimpleNamespace(id=i, process_index=p) for i, p in enumerate([0, 1, 0, 1, 1, 0])]
    ordered = sharding.make_mesh(wired)
    assert [device.process_index for device in ordered] == [0, 0, 0, 1, 1, 1]
    assert [device.id for device in ordered] == [0, 2, 5, 1, 3, 4]


def test_batches_are_placed_in_order():
    devices = sharding.make_mesh()
    rows = np.arange(16)
    placed = sharding.place_batch({"row": rows}, devices)["row"]
    np.testing.assert_array_equal(placed, rows)
    assert placed.sharding.is_equivalent_to(sharding.sharded(devices), 1)
