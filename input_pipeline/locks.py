"""A lock: one process prepares a data set, the others wait for it."""

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Iterator

import filelock
from etils import epath

from input_pipeline.errors import DatasetError

_REMIND_SECONDS = 60.0
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def preparation_lock(path: epath.Path) -> Iterator[None]:
    """Holds a lock among the processes that see this file system; waits while another holds it.

    The operating system frees the lock of a process that dies; the file itself stays. On a bucket,
    or a file system without such locks, it only prints that there is no lock.

    Raises:
      DatasetError: in a renderer that runs the main script again, which would wait forever.
    """
    # As multiprocessing itself tests whether a new process is still importing the main module.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DatasetError(
            "the script that prepares a data set is run again by each process that helps it: put "
            'what the script does under `if __name__ == "__main__":`'
        )
    if "://" in os.fspath(path):
        print(f"No lock at {path}: let only one process prepare this data set at a time.")
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A soft lock would stay behind a process that is killed.
    lock = filelock.FileLock(path, poll_interval=_POLL_SECONDS, fallback_to_soft=False)
    try:
        _acquire(lock, path)
    except OSError as error:  # file systems of clusters may lack locks
        print(f"No lock at {path} ({error}): let only one process prepare this data set.")
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.BaseFileLock, path: epath.Path) -> None:
    """Acquires the lock and writes this process's name into its file; prints whom it waits for."""
    timeout = 0.5  # short waits pass in silence, and the holder has written its name by then
    while not lock.is_locked:
        try:
            lock.acquire(timeout=timeout)
        except filelock.Timeout:
            owner = path.read_text() or "another process"
            print(f"Waiting for {owner}, which prepares this data set ({path})", flush=True)
            timeout = _REMIND_SECONDS
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
