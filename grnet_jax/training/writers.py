"""Where metrics go: TensorBoard and the terminal through clu, or the terminal alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import jax
from absl import logging
from etils import epath


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


@contextmanager
def make_writer(workdir: epath.Path) -> Iterator[MetricWriter]:
    """Makes a writer to TensorBoard files in `workdir` and to the log; flushed at the end."""
    try:
        from clu import metric_writers  # imports TensorFlow
    except ImportError as error:
        logging.warning("No TensorBoard files: clu.metric_writers needs %s.", error.name)
        yield _TerminalWriter()
        return
    writer = metric_writers.create_default_writer(
        workdir, just_logging=jax.process_index() > 0, asynchronous=False
    )
    try:
        yield writer
    finally:
        writer.close()
