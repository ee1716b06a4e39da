"""Checkpoints of a run: the last ones and the best, each with its config and step."""

import json
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict
from orbax.checkpoint import checkpoint_managers

from grnet_jax.errors import InputError
from grnet_jax.training.state import TrainState

# Fields that may differ between a run and its continuation: they change what is reported and
# where data lies, not what is computed.
_FREE_FIELDS = (
    "name",
    "eval",
    "data.dir",
    # Where files lie: what they hold is a part of `data.prepared`.
    "data.detections",
    "data.points",
    # How records are written.
    "data.beam_runner",
    "data.beam_options",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    # Where training starts is no matter once it has started.
    "train.init_from",
    "train.init_parts",
    "model.backbone.pretrained",
)
_PREPARED = "data.prepared"
_CONFIG_FILE = "config.json"


class CheckpointError(InputError):
    """A workdir whose checkpoints cannot be used; the message says which and why."""


def write_config(workdir: epath.Path, config: Mapping[str, Any]) -> None:
    """Writes the run's config beside its checkpoints, for people and for `grnet_jax.load`."""
    workdir.mkdir(parents=True, exist_ok=True)
    half = workdir / f"{_CONFIG_FILE}.tmp"
    half.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    half.replace(workdir / _CONFIG_FILE)  # a kill leaves the old file or the new one


def read_config(workdir: epath.Path) -> dict[str, Any]:
    """Reads the config of the run in `workdir`.

    Raises:
      CheckpointError: if there is none.
    """
    path = workdir / _CONFIG_FILE
    if not path.exists():
        raise CheckpointError(
            f"{workdir} holds no run: {path} is missing. Train one first with "
            f"`python train.py --config=... --workdir={workdir}`"
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error


def check_same_config(
    workdir: epath.Path, config: Mapping[str, Any], part: str | None = None
) -> None:
    """Makes sure that the run in `workdir`, if any, was made by this config.

    Args:
      workdir: of the run.
      config: to compare with the run's own.
      part: the section that has to agree; None for all fields that change what is computed.

    Raises:
      CheckpointError: naming every field that differs and matters.
    """
    if not (workdir / _CONFIG_FILE).exists():
        return
    old, new = (
        flatten_dict(fields, sep=".")
        for fields in (read_config(workdir), json.loads(json.dumps(config)))
    )
    changes = [
        f"  {field}: {old.get(field, 'absent')!r} there, {new.get(field, 'absent')!r} now"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
        # Which prepared data set it was is not known before the data set is open.
        and not (field == _PREPARED and field not in new)
        and not _is_free(field)
        and (part is None or field.startswith(f"{part}."))
    ]
    if changes:
        raise CheckpointError(
            f"{workdir} holds a run of another config; choose another --workdir, give the "
            "fields as they were, or delete it to start anew. Fields that differ:\n"
            + "\n".join(changes)
        )


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

    def save(
        self, state: TrainState, config: Mapping[str, Any], metrics: Mapping[str, float] | None
    ) -> None:
        """Starts writing a checkpoint of the state at its step, unless an undamaged one is there.

        Args:
          state: to be saved.
          config: kept beside it.
          metrics: validation metrics, `top1`, or without it `category_top1`, deciding which
            checkpoint is best; None if none were measured at this step.
        """
        step = int(state.step)
        if step in self._damaged:
            self._manager.delete(step)
            self._damaged.remove(step)
        if step in self._manager.all_steps():
            return
        note = {"config": dict(config), "step": step}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), note=ocp.args.JsonSave(note)
            ),
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
        return self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        ).state


def _selection_metric(metrics: Mapping[str, float]) -> float:
    # Where photos cannot be ranked, they have categories.
    return metrics["top1"] if "top1" in metrics else metrics["category_top1"]


def _is_free(field: str) -> bool:
    return any(field == free or field.startswith(free + ".") for free in _FREE_FIELDS)
