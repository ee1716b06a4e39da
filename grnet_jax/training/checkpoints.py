"""Checkpoints of a run: the last ones and the best, each with its config and step."""

import contextlib
import functools
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from grnet_jax.config import Config, TrainConfig, fields_affecting, parse_config
from grnet_jax.errors import InputError, program_name
from grnet_jax.training.state import TrainState
from input_pipeline import check_folder, read_object, to_path, write_file

_CONFIG_FILE = "config.json"
_DATA = "content of the prepared data"
_LENGTH = ("train.steps", "train.epochs")


class CheckpointError(InputError):
    """A workdir whose checkpoints cannot be used; the message says which and why."""


def write_config(workdir: epath.Path, config: Config, prepared: str) -> None:
    """Writes the run's config beside its checkpoints, for people, eval.py and `grnet_jax.load`.

    Args:
      workdir: of the run.
      config: the whole config.
      prepared: the content of the data that the run is trained on.
    """
    content = {**config.model_dump(exclude_none=True), "prepared": prepared}
    write_file(workdir / _CONFIG_FILE, json.dumps(content, indent=2) + "\n")


def open_workdir(workdir: str | os.PathLike, what: str = "--workdir") -> epath.Path:
    """Returns the path of a workdir.

    Raises:
      InputError: it is no path, or has brackets, stars or question marks, for which orbax would
        look as a pattern, and find no checkpoint.
    """
    path = to_path(workdir, what)
    if marks := sorted(set("[]*?") & set(str(path))):
        raise InputError(f"{what}={str(path)!r}: choose a path without {' '.join(marks)}")
    try:
        (path / _CONFIG_FILE).exists()
    except OSError as error:  # a name that is too long
        raise InputError(f"{what}={str(path)!r}: {error.strerror or error}") from error
    return path


@contextlib.contextmanager
def lock_workdir(workdir: epath.Path) -> Iterator[None]:
    """Holds a workdir for one training; on a bucket it only trusts that there is one.

    Raises:
      CheckpointError: another process trains in it.
    """
    if "://" in str(workdir):
        yield
        return
    check_folder(workdir)
    lock = filelock.FileLock(workdir / ".lock", timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise CheckpointError(
            f"{workdir}: another process trains in it; wait for it, or choose another --workdir"
        ) from None
    except OSError as error:  # file systems of clusters may lack locks
        logging.warning("No lock in %s (%s): let only one process train in it.", workdir, error)
    try:
        yield
    finally:
        lock.release()


def read_config(workdir: epath.Path) -> Config:
    """Returns the config of the run in `workdir`; a field that it lacks has its default.

    Raises:
      CheckpointError: there is none, or it cannot be read; naming the fields that are wrong or are
        no more.
    """
    return _read(workdir)[0]


def _read(workdir: epath.Path) -> tuple[Config, str]:
    """The config, and the content of the data."""
    path = workdir / _CONFIG_FILE
    if not path.exists():
        raise CheckpointError(
            f"{workdir} holds no run: {path} is missing. Train one first with "
            f"`{program_name('train')} --config=... --workdir={workdir}`"
        )
    try:
        content = read_object(path, "the config of a run")
    except InputError as error:
        raise CheckpointError(str(error)) from error
    prepared = str(content.pop("prepared", ""))
    try:
        config = parse_config(content)
    except InputError as error:
        raise CheckpointError(
            f"{path}: these fields are not those of this version, or wrong. Use the version that "
            "wrote them; or correct them there, and take out unknown ones that changed nothing:\n"
            f"{error}"
        ) from error
    if missing := list(_missing_fields(content, config.model_dump(exclude_none=True))):
        _tell_once(f"{path} lacks {', '.join(missing)}: another version wrote it; taken: defaults")
    return config, prepared


def _missing_fields(content: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Yields the fields that a stored config lacks; of a section that it lacks, its name."""
    for name, value in known.items():
        if name not in content:
            yield name
        elif isinstance(value, dict):
            yield from (f"{name}.{rest}" for rest in _missing_fields(content[name], value))


@functools.cache
def _tell_once(text: str) -> None:
    logging.warning("%s", text)


def check_same_config(workdir: epath.Path, config: Config, prepared: str = "") -> None:
    """Makes sure that the run in `workdir`, if any, can be continued with this config.

    Args:
      workdir: of the run.
      config: to compare with the run's own.
      prepared: the content of the data; "" where that is not known yet.

    Raises:
      CheckpointError: naming every field that differs and affects the records or the parameters.
    """
    if not (workdir / _CONFIG_FILE).exists():
        return
    stored, stored_data = _read(workdir)
    old, new = (fields_affecting(one, "records", "parameters") for one in (stored, config))
    if prepared:
        old[_DATA], new[_DATA] = stored_data, prepared
    if _is_longer(stored.train, config.train):
        for field in _LENGTH:
            was, now = old.pop(field), new.pop(field)
            if was != now and prepared:  # once
                logging.info("%s: %s, and now %s: the schedule is that of now", field, was, now)
    changes = [
        f"  {field}: {old.get(field, 'absent')!r} there, {new.get(field, 'absent')!r} now"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]
    if changes:
        raise CheckpointError(
            f"{workdir} holds a run of another config; choose another --workdir, give the "
            "fields as they were (train.steps or train.epochs may be more), or delete it to start "
            "anew. Fields that differ:\n" + "\n".join(changes)
        )


def _is_longer(stored: TrainConfig, given: TrainConfig) -> bool:
    """Whether a training is as that of a run, or longer."""
    if bool(stored.steps) != bool(given.steps):
        return False
    return given.steps >= stored.steps if stored.steps else given.epochs >= stored.epochs


def has_any(workdir: epath.Path) -> bool:
    """Whether a checkpoint was finished in `workdir`; it may be damaged."""
    folder = workdir / "checkpoints"
    return folder.exists() and any(path.name.isdigit() for path in folder.iterdir())


class Checkpoints:
    """The checkpoints under `workdir/checkpoints`, written in the background.

    It keeps the last two, so that one damaged file costs little, and the one with the best
    validation metric. Close it, or use it as a context, to wait for the writing.
    """

    def __init__(self, workdir: epath.Path):
        # orbax takes absolute paths alone; `resolve` would spoil a bucket's.
        bucket = "://" in str(workdir)
        self._directory = (workdir if bucket else workdir.resolve()) / "checkpoints"
        self._damaged: set[int] = set()
        _check_metrics(self._directory)
        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(2),
                checkpoint_managers.BestN(
                    get_metric_fn=_selection_metric, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep, best_fn=_selection_metric, create=True
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def last_step(self) -> int | None:
        """Returns the newest checkpoint's step, None without any."""
        return self._manager.latest_step()

    def save(self, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Starts writing a checkpoint of the state at its step, unless an undamaged one is there.

        Args:
          state: to be saved.
          metrics: validation metrics, `top1`, `box_ap50` or `category_top1` deciding which
            checkpoint is best; None if none were measured at this step.
        """
        step = int(state.step)
        if step in self._damaged:
            self._manager.delete(step)
            self._damaged.remove(step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state)),
            metrics=None if metrics is None else dict(metrics),
            force=True,  # also where a damaged checkpoint of a later step lies
        )

    def restore_last(self, abstract: TrainState) -> TrainState | None:
        """Restores the newest undamaged checkpoint; None if there is none at all.

        A damaged one is logged and skipped; it stays until its step is saved again.

        Args:
          abstract: the state's shapes, dtypes and shardings.

        Raises:
          CheckpointError: if there are checkpoints and every one is damaged.
        """
        return self._first_whole(sorted(self._manager.all_steps(), reverse=True), abstract)

    def restore_best(self, abstract: TrainState) -> TrainState:
        """Restores the checkpoint with the best validation metric, else the newest.

        Raises:
          CheckpointError: if there is none, or every one is damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        best = self._manager.best_step()
        # orbax calls the newest "best" where no checkpoint has a metric; so do we.
        order = ([] if best is None else [best]) + [step for step in steps if step != best]
        state = self._first_whole(order, abstract)
        if state is None:
            raise CheckpointError(
                f"{self._directory} holds no checkpoint yet. Train first: the first one is "
                "written after train.checkpoint_every steps"
            )
        return state

    def _first_whole(self, steps: list[int], abstract: TrainState) -> TrainState | None:
        for step in steps:
            try:
                return self._restore(step, abstract)
            except Exception as error:  # whatever a damaged file makes the readers raise
                self._damaged.add(step)
                reason = str(error).strip().splitlines() or [type(error).__name__]
                logging.warning(
                    "Checkpoint %s is damaged or cannot be read (%s); trying the one before it.",
                    self._directory / str(step),
                    reason[0][:300],
                )
        if steps:
            raise CheckpointError(
                f"no checkpoint in {self._directory} can be read (steps {steps}; the reasons are "
                "above). If other versions of the libraries wrote them, use those; to start anew, "
                "delete the folder"
            )
        return None

    def _restore(self, step: int, abstract: TrainState) -> TrainState:
        _quiet_other_reads()
        return self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        ).state


@functools.cache
def _quiet_other_reads() -> None:
    """Passes over what orbax was reading beside what failed: each would print a traceback."""
    show = sys.unraisablehook

    def show_others(found: Any) -> None:
        closed = "Event loop is closed" in str(found.exc_value)
        if not closed and not inspect.iscoroutine(found.object):
            show(found)

    sys.unraisablehook = show_others


def _check_metrics(directory: epath.Path) -> None:
    """Raises CheckpointError where a checkpoint's metrics, which choose the best, are damaged."""
    for path in sorted(directory.glob("*/metrics/metrics")):
        try:
            float(_selection_metric(read_object(path, "metrics")))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: is damaged; delete {path.parents[1]} to go on without this checkpoint"
            ) from error


def _selection_metric(metrics: Mapping[str, float]) -> float:
    # Where images cannot be ranked, they have objects or categories.
    name = next((name for name in ("top1", "box_ap50") if name in metrics), "category_top1")
    return metrics[name]
