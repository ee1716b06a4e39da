"""Runs the service."""

import dataclasses
import ipaddress
import os
import pathlib

import jax
import threadpoolctl
import uvicorn
from etils import epath

from grnet_jax.errors import InputError
from grnet_jax.serving.app import Detector, Service, build_app
from grnet_jax.serving.live import Follower
from grnet_jax.serving.protection import DeadlineProtocol, Guard

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """How a catalog is served.

    Attributes:
      host: address to listen at.
      port: likewise; 0 for a free one.
      shortlist: photos that a pairwise matcher scores.
      token: that every request has to bear; "" for none.
      allowed_hosts: names of this server besides localhost and `host`; any, where others than this
        machine may ask and none is given.
      public: whether others than this machine may ask without a token.
      per_minute: requests of a client; 0 for no limit.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    shortlist: int = 200
    token: str = ""
    allowed_hosts: tuple[str, ...] = ()
    public: bool = False
    per_minute: float = 600


def guarded(service: Service, options: ServeOptions) -> Guard:
    """Returns the application with what protects it."""
    # A page elsewhere that takes this name reaches no more than anybody who asks.
    hosts = options.allowed_hosts or (() if _is_local(options.host) else ("*",))

    def count(route: str, status: int) -> None:
        service.metrics.requests.labels(route, str(status)).inc()

    return Guard(
        build_app(service),
        hosts=(*_LOCAL, options.host.lower(), *hosts),
        token=options.token,
        per_minute=options.per_minute,
        count=count,
    )


def serve(folder: epath.Path, options: ServeOptions, detector: Detector | None = None) -> None:
    """Serves a catalog until it is interrupted.

    Raises:
      InputError: others could ask without a token, and `public` does not say so.
    """
    if not (_is_local(options.host) or options.token or options.public):
        raise InputError(
            f"--host={options.host}: anybody could search: give --token_file, or say --public"
        )
    cache = pathlib.Path.home() / ".cache" / "grnet_jax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    service = Service(Follower(folder, options.shortlist), options.shortlist, detector)
    config = uvicorn.Config(
        guarded(service, options),
        host=options.host,
        port=options.port,
        http=DeadlineProtocol,
        server_header=False,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    # Decoding and embedding each have their threads: more of BLAS only wait for each other.
    with threadpoolctl.threadpool_limits(1, "blas"):
        uvicorn.Server(config).run()


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
