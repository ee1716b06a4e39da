"""A lock: one process prepares a data set, the others wait for it."""

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from typing import TextIO

from etils import epath

from input_pipeline.errors import DatasetError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_REMIND_SECONDS = 60.0
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def preparation_lock(path: epath.Path) -> Iterator[None]:
    """Holds a lock among the processes that see this file system; waits while another holds it.

    The operating system frees the lock of a process that dies. The file itself stays: deleting it
    would let two processes lock two files. On a bucket, or without such locks in the system, it
    only prints a warning.

    Raises:
      DatasetError: in a renderer that runs the main script again, which would wait forever.
    """
    # As multiprocessing itself tests whether a new process is still importing the main module.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DatasetError(
            "the script that prepares a data set is run again by each process that helps it: put "
            'what the script does under `if __name__ == "__main__":`'
        )
    if "://" in os.fspath(path) or fcntl is None:
        print(f"No lock at {path}: let only one process prepare this data set at a time.")
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            _wait_for(file, path)
        except OSError as error:  # file systems of clusters may lack locks
            print(f"No lock at {path} ({error}): let only one process prepare this data set.")
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _wait_for(file: TextIO, path: epath.Path) -> None:
    next_message = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= next_message:
                file.seek(0)
                owner = file.read() or "another process"
                print(f"Waiting for {owner}, which prepares this data set ({path})", flush=True)
                next_message = time.monotonic() + _REMIND_SECONDS
            time.sleep(_POLL_SECONDS)
