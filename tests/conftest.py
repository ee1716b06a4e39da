"""Eight simulated devices and one compilation cache for every test, set before jax is imported."""

import os

from tests import FAST_COMPILING

os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        FAST_COMPILING,
    )
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest


def _shared_folder(tmp_path_factory, name):
    """A folder of that name; one for all test processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder for prepared data sets; test processes take turns in it."""
    return _shared_folder(tmp_path_factory, "data")


@pytest.fixture(scope="session", autouse=True)
def _compilation_cache(tmp_path_factory):
    """What one test process compiled serves the others, later tests and the commands they start."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        cache = {
            "dir": str(_shared_folder(tmp_path_factory, "compiled")),
            # A limit makes processes lock it, so that none reads what another is still writing.
            "max_size": 2**32,
        }
        for name, value in cache.items():
            jax.config.update(f"jax_compilation_cache_{name}", value)
            os.environ[f"JAX_COMPILATION_CACHE_{name.upper()}"] = str(value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    jax.devices()  # before a test changes the flags that say how many there are


@pytest.fixture(scope="session")
def tiny_config(data_dir):
    """Makes configs on the tiny synthetic set, of six steps, evaluated every three."""
    from tests.small import small_config

    def make(system="grnet", **fields):
        config = small_config(system)
        config.dataset.update(source="tiny", dir=str(data_dir))
        config.train.update(steps=6, log_every=2, eval_every=3, checkpoint_every=3)
        config.eval.batch_size = 16
        if "num_attributes" in config.model:
            config.model.num_attributes = 49  # that the tiny set has
        config.update_from_flattened_dict(fields)
        return config

    return make


@pytest.fixture(scope="module")
def few_devices():
    """Commands in this process take no more devices than a config asks for: these compile faster.

    That steps and evaluations on eight devices are those on one is tested apart.
    """
    import jax

    from grnet_jax import commands, sharding

    make_mesh = sharding.make_mesh

    def few(devices=None, model_parallel=1):
        return make_mesh(devices or jax.devices()[:model_parallel], model_parallel)

    with pytest.MonkeyPatch.context() as patch:
        for module in (commands, sharding):
            patch.setattr(module, "make_mesh", few)
        yield
