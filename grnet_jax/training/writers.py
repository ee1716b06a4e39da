"""Where metrics go: the terminal, through clu TensorBoard, and Weights & Biases."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import jax
from absl import logging
from etils import epath

from grnet_jax.config import Config
from grnet_jax.errors import InputError


class MetricWriter(Protocol):
    """The part of clu's writers that training uses."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records scalars of a step."""
        ...


class _TerminalWriter:
    """For machines without TensorFlow, which clu's writers need."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        text = ", ".join(f"{name}={value:.5g}" for name, value in scalars.items())
        logging.info("[%d] %s", step, text)

    def close(self) -> None:
        pass


class _WandbWriter:
    """Writes to a run of Weights & Biases, after another writer."""

    def __init__(self, writer: Any, run: Any):
        self._writer, self._run = writer, run

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, scalars)
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._writer.close()
        self._run.finish()


def check_writer(config: Config) -> None:
    """Raises InputError where `train.wandb` needs a package that is not installed."""
    if config.train.wandb:
        _import_wandb()


@contextmanager
def make_writer(workdir: epath.Path, config: Config) -> Iterator[MetricWriter]:
    """Makes a writer to the log, to TensorBoard files in `workdir` and, by `train.wandb`, to there.

    What it was given is flushed at the end. In a job of several processes only the first writes
    to files and services.

    Raises:
      InputError: as `check_writer` does.
    """
    writer: Any = _TerminalWriter()
    try:
        from clu import metric_writers  # imports TensorFlow
    except ImportError as error:
        logging.warning("No TensorBoard files: clu.metric_writers needs %s.", error.name)
    else:
        writer = metric_writers.create_default_writer(
            workdir, just_logging=jax.process_index() > 0, asynchronous=False
        )
    if config.train.wandb and jax.process_index() == 0:
        run = _import_wandb().init(
            project=config.train.wandb,
            name=config.name or workdir.name,
            id=hashlib.blake2b(str(workdir).encode(), digest_size=8).hexdigest(),
            resume="allow",  # a run that goes on does so there too
            config=config.model_dump(exclude_none=True),
        )
        writer = _WandbWriter(writer, run)
    try:
        yield writer
    finally:
        writer.close()


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "train.wandb: needs the package wandb, which is not installed: pip install wandb"
        ) from error
    return wandb
