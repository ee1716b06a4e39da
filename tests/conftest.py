"""Eight simulated devices for every test, set before anything imports jax."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder for prepared data sets; one for all test processes, which take turns."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return shared / "data"


@pytest.fixture(scope="session")
def tiny_config(data_dir):
    """Makes configs of GRNet on the tiny synthetic set: six steps, evaluated every three."""
    from configs import grnet

    def make():
        config = grnet.get_config()
        config.dataset.dir = str(data_dir)
        config.dataset.source = "tiny"
        config.image.size = 32
        config.model.node_dim = 16
        config.model.reasoning_dim = 8
        config.train.batch_size = 8
        config.train.steps = 6
        config.optimizer.warmup_steps = 2
        config.train.log_every = 2
        config.train.eval_every = config.train.checkpoint_every = 3
        config.eval.batch_size = 16
        return config

    return make
