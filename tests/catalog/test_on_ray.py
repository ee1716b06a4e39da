"""Ray's workers embed what one process does, also where one of them is killed."""

import os
import pathlib
import signal
import sys

import jax
import numpy as np
import pytest
from etils import epath

from grnet_jax.catalog import on_ray
from grnet_jax.catalog.generations import open_generation
from grnet_jax.errors import InputError
from grnet_jax.search.features import read_all
from tests.catalog.shops import index, make_shop, small_loaded


class Worker(on_ray._Worker):
    """A worker of a small matcher, of which the first that has rows is killed."""

    def __init__(self, source, *arguments):
        on_ray.load = lambda run: small_loaded("grnet")
        super().__init__(source, *arguments)
        self._killed = pathlib.Path(f"{source}.killed")

    def __call__(self, rows):
        if not self._killed.exists():
            self._killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(rows)


@pytest.fixture
def cluster():
    """Two machines of a core each."""
    ray = pytest.importorskip("ray")
    module = pytest.importorskip("ray.cluster_utils")
    node = {"object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = module.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **node)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_workers_of_which_one_is_killed_do_what_one_process_does(
    tmp_path, monkeypatch, cluster
):
    shop, matcher = make_shop(tmp_path / "photos", 48), small_loaded("grnet")
    (shop.parent / "5.png").write_bytes(b"no photo")
    places = [epath.Path(tmp_path / name) for name in ("here", "there")]
    index(places[0], shop, matcher, memory_gb=0)
    monkeypatch.setattr(on_ray, "_ROWS", 8)
    monkeypatch.setattr(on_ray, "_Worker", Worker)
    made = index(places[1], shop, matcher, memory_gb=0, ray=cluster.address)
    assert on_ray._connect(cluster.address)[1]["compute"].min_size == 2
    assert pathlib.Path(f"{shop}.killed").exists()
    assert (made.rows, made.counts["unreadable"]) == (47, 1)
    assert made.recall >= 0.98
    one, two = (open_generation(place, matcher.feature_shapes()) for place in places)
    assert one.listing.drop(columns="number").equals(two.listing.drop(columns="number"))
    features = [read_all(part.features) for part in (one, two)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), *features)


def test_ray_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    shop = make_shop(tmp_path / "photos")
    with pytest.raises(
        InputError, match=r"--ray: is not installed: pip install 'grnet_jax\[ray\]'"
    ):
        index(epath.Path(tmp_path / "shop"), shop, ray="local")
