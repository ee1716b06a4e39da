"""The profiler's trace of some steps, which TensorBoard and Perfetto open."""

from types import TracebackType
from typing import Any

import jax
from absl import logging
from etils import epath


class StepTrace:
    """Traces steps N to M of this process into a folder; ended early, as much as there is.

    Args:
      folder: for the trace.
      steps: (N, M), or () for no trace.
    """

    def __init__(self, folder: epath.Path, steps: tuple[int, ...]):
        self._folder = folder
        self._steps = steps if jax.process_index() == 0 else ()
        self._running = False

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Starts the trace where this is its first step."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, metrics: Any) -> None:
        """Ends it where this was its last step, once the step's metrics are computed."""
        if self._running and step == self._steps[1]:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logging.info("Wrote the trace of steps %d to %d to %s", *self._steps, self._folder)
