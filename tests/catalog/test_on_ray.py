"""A Ray cluster embeds and indexes what one process does, also where a worker is killed."""

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
from grnet_jax.catalog.searching import Catalog
from grnet_jax.errors import InputError
from grnet_jax.inference import load
from grnet_jax.search.features import read_all
from tests.catalog.shops import index, make_shop

_RUN = "imagenet:efficientnet_lite0"


class Dying(on_ray._Worker):
    """A worker of which the first that has rows is killed."""

    def __init__(self, source, *arguments):
        super().__init__(source, *arguments)
        self._died = pathlib.Path(f"{source}.killed")

    def __call__(self, rows):
        if not self._died.exists():
            self._died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_workers_of_which_one_is_killed_do_what_one_process_does(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("lance_ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    shop, matcher = make_shop(tmp_path / "photos", 48), load(_RUN)
    (shop.parent / "5.png").write_bytes(b"no photo")
    places = [epath.Path(tmp_path / name) for name in ("here", "there")]
    index(places[0], shop, matcher, run=_RUN, memory_gb=0)
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    monkeypatch.setattr(on_ray, "_ROWS", 8)
    monkeypatch.setattr(on_ray, "_Worker", Dying)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        made = index(places[1], shop, matcher, run=_RUN, memory_gb=0, ray=cluster.address)
        assert on_ray._connect(cluster.address)[1]["concurrency"] == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert pathlib.Path(f"{shop}.killed").exists()
    assert (made.rows, made.counts["unreadable"]) == (47, 1)
    assert made.recall >= 0.98
    one, two = (open_generation(place, matcher.feature_shapes()) for place in places)
    assert one.listing.drop(columns="number").equals(two.listing.drop(columns="number"))
    features = [read_all(part.features) for part in (one, two)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *features)
    assert Catalog(places[1], matcher).search([shop.parent / "40.png"])[0][0].item == "item 20"


def test_ray_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    shop = make_shop(tmp_path / "photos")
    with pytest.raises(
        InputError, match=r"--ray: is not installed: pip install 'grnet_jax\[ray\]'"
    ):
        index(epath.Path(tmp_path / "shop"), shop, ray="local")
