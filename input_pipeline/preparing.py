"""Prepares a data set once."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from input_pipeline.beam import beam_config
from input_pipeline.locks import preparation_lock


def ensure_prepared(
    folder: epath.Path,
    make_builder: Callable[[], tfds.core.DatasetBuilder],
    beam_runner: str = "",
    beam_options: str = "",
) -> None:
    """Prepares a data set unless its folder exists.

    A killed run leaves an unfinished folder, never `folder` itself: the folder is renamed when it
    is complete. What killed runs left is removed.

    Args:
      folder: DIR/NAME/CONFIG/VERSION, where the builder writes.
      make_builder: makes the builder; called only if the folder does not exist.
      beam_runner: see `beam_config`.
      beam_options: see `beam_config`.

    Raises:
      DatasetError: Beam is asked for and is not installed, or knows no such runner or option.
    """
    if folder.exists():
        return
    config = beam_config(beam_runner, beam_options)
    with preparation_lock(folder.parent.parent / f".{folder.parent.name}.lock"):
        if folder.exists():  # another process has done it meanwhile
            return
        _remove_unfinished(folder)
        print(f"Preparing {folder}", flush=True)
        # TFDS makes a folder for downloads, of which there are none.
        with tempfile.TemporaryDirectory() as downloads, quiet_tfds():
            make_builder().download_and_prepare(
                download_dir=downloads, download_config=config, file_format="array_record"
            )
    print(f"Prepared {folder}", flush=True)


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keeps TFDS from logging downloads, custom configs and the metadata it reads."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _remove_unfinished(folder: epath.Path) -> None:
    if not folder.parent.exists():
        return
    for leftover in folder.parent.glob("incomplete.*"):
        print(f"Removing what a killed run left: {leftover}")
        leftover.rmtree()
