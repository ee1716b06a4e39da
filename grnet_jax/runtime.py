"""What every command starts with: messages, the job's processes, and how errors end it."""

import contextlib
import glob
import importlib.util
import logging as python_logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO, cast

import jax
from absl import flags, logging

from grnet_jax.errors import InputError


class _UntilClosed:
    """Standard output whose reader may leave, as `head` does: the command goes on unheard."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, to nowhere once the reader has left."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        """Flushes what is buffered."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def session(argv: Sequence[str] = ()) -> Iterator[None]:
    """Sets up messages and devices for a command; an `InputError` ends it with its message alone.

    So does an error of the operating system that names a file: a full disk, a name too long.
    Whoever reads the output may leave early: the command goes on, for its files.

    Args:
      argv: the command's name and the arguments that no flag took: there must be none.
    """
    if not flags.FLAGS.is_parsed():  # commands of argparse: absl would say so at the first message
        flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_for_users)
    logging.get_absl_handler().setFormatter(
        python_logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    )
    # TensorFlow only reads images here: its start-up lines tell nothing about the run.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX sets 1 where nobody else has
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # of the processes' connections, and buckets
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may hold what no encoding has
            stream.reconfigure(errors="backslashreplace")
    output = _UntilClosed(sys.stdout)
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; options are --NAME=VALUE")
        initialize_distributed()
        with contextlib.redirect_stdout(cast(TextIO, output)):
            yield
    except Exception as error:
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.filename):
            logging.debug("Where it came from:", exc_info=True)
            print(f"\nerror: {error}", file=sys.stderr)
            _exit(2)
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        print(
            f"\nerror: process {jax.process_index()} of {jax.process_count()} cannot go on; where "
            "the error above speaks of connections, peers or barriers, another process was lost. "
            "All processes end. The same command, started on all of them again, continues from the "
            "last checkpoint.",
            file=sys.stderr,
        )
        _exit(1)
    finally:
        output.flush()


def _is_for_users(record: python_logging.LogRecord) -> bool:
    """Whether to show a log record: libraries log every file that they touch."""
    packages = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[1] / "input_pipeline"]
    ours = any(pathlib.Path(record.pathname).is_relative_to(package) for package in packages)
    metrics = record.filename in ("logging_writer.py", "parameter_overview.py")
    return ours or metrics or record.levelno >= python_logging.WARNING


def _exit(code: int) -> None:
    """Exits with that code; in a job of several processes at once, without waiting for them."""
    if jax.process_count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def initialize_distributed() -> None:
    """Connects the processes of a job, where the environment says that there are several.

    JAX finds the others by itself under SLURM, Open MPI and on a TPU machine; elsewhere by
    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID. To be called before
    anything touches a device; does nothing for a single process.

    Raises:
      InputError: there are several processes, and JAX cannot tell which of them this one is.
    """
    env = os.environ
    arguments: dict[str, Any] = {}
    if "JAX_COORDINATOR_ADDRESS" in env:  # JAX itself reads it, but not the other two
        names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        arguments = {key: _number(env, name) for key, name in names.items()}
    elif _count_tasks(env) > 1:
        arguments = {"local_device_ids": local_devices(env, _count_visible_gpus(env))}
    elif not (
        importlib.util.find_spec("libtpu") and glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*")
    ):
        return
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        if not arguments:
            logging.warning("This TPU machine runs alone: jax.distributed says %s", error)
            return
        if isinstance(error, RuntimeError):  # a lost connection, not a missing value
            raise
        raise InputError(
            f"the processes of this job cannot be connected: {error} Set "
            "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def _number(env: Mapping[str, str], name: str) -> int | None:
    if name not in env:
        return None
    if not env[name].isdigit():
        raise InputError(f"{name} must be a number, it is {env[name]!r}")
    return int(env[name])


def _count_tasks(env: Mapping[str, str]) -> int:
    """Returns the tasks of this process's SLURM step or Open MPI job, else 1."""
    # Not SLURM_NTASKS, which JAX reads: a shell in an allocation has it and is no step of it.
    if "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:
        return int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    return int(env.get("OMPI_COMM_WORLD_SIZE", "1"))


def local_devices(env: Mapping[str, str], visible: int) -> list[int] | None:
    """Returns which of the GPUs that it sees this task uses; None where it sees none.

    JAX by itself gives each task one GPU. Here tasks of one machine that all see the same GPUs
    share them evenly; a task that sees one GPU, or is alone on its machine, uses all it sees.
    """
    if not visible:
        return None
    # "8(x4)": eight tasks on each of four machines.
    tasks = int(re.split(r"[(,]", env.get("SLURM_STEP_TASKS_PER_NODE", ""))[0] or 0)
    tasks = tasks or int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    local = int(env.get("SLURM_LOCALID", env.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")))
    if tasks == 1 or visible < tasks or visible % tasks:
        return list(range(visible))
    share = visible // tasks
    return list(range(local * share, (local + 1) * share))


def _count_visible_gpus(env: Mapping[str, str]) -> int:
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip()])
    return len(glob.glob("/dev/nvidia[0-9]*"))
