"""The training loop of every system here."""

import hashlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from grnet_jax import sharding
from grnet_jax.errors import InputError
from grnet_jax.photos import ANNOTATED
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.recognition import RecognitionEvaluator, recognises_categories
from grnet_jax.retrieval.tasks import Task, has_both_domains, make_task
from grnet_jax.training import checkpoints
from grnet_jax.training.embedding_objectives import photos_together
from grnet_jax.training.labels import write_labels
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.recognition import check_labels
from grnet_jax.training.setup import (
    Run,
    build_run,
    check_pretrained,
    check_trainable,
    start_state,
)
from grnet_jax.training.state import TrainState
from grnet_jax.training.step import make_train_step
from grnet_jax.training.two_stage import check_chunk
from grnet_jax.training.writers import MetricWriter, make_writer

# Of the objective's metrics, beside the loss.
_SHOWN = ("batch_top1", "descriptor_batch_top1", "batch_accuracy")


class NonFiniteLossError(InputError):
    """The loss is no number any more; the message has the step, norms and last good checkpoint."""


class Trained(NamedTuple):
    """What `train` returns: the last state, and whether it is that of the last step."""

    state: TrainState
    finished: bool


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> Trained:
    """Trains what `config` describes, continuing the run in `workdir` if there is one.

    SIGTERM or Ctrl-C ends it after the step under way, with a checkpoint.

    Args:
      config: the whole config.
      workdir: a folder or bucket for checkpoints, logs and the config.

    Raises:
      InputError: naming a config field that cannot be.
      CheckpointError: if `workdir` holds another config's run, or only damaged checkpoints.
      NonFiniteLossError: if the loss is no number any more.
    """
    directory = epath.Path(workdir).expanduser()
    devices = sharding.make_mesh()
    config = _check(config, devices)  # before what may be hours of preparing data
    checkpoints.check_same_config(directory, config.to_dict())
    if not checkpoints.has_any(directory):
        check_pretrained(config)
    dataset = _load_dataset(config)
    _check_classes(config, dataset)
    run = build_run(config, devices, _steps_per_epoch(config, dataset))
    described = config.to_dict()
    described["data"]["prepared"] = _describe_data(config, dataset)
    checkpoints.check_same_config(directory, described)
    if jax.process_index() == 0:
        checkpoints.write_config(directory, described)
        write_labels(directory, dataset.split("train").index)
    with checkpoints.Checkpoints(directory) as saved, make_writer(directory) as writer:
        state = saved.restore_last(run.abstract_state())
        if state is None:
            state = start_state(run)
            logging.info("Starting anew in %s", directory)
        else:
            logging.info("Continuing %s from step %d", directory, int(state.step))
        _describe(run, state, dataset)
        state = _Loop(run, dataset, saved, writer).run(state)
    return Trained(state, finished=int(state.step) >= run.steps)


def _check(config: ml_collections.ConfigDict, devices: Mesh) -> ml_collections.ConfigDict:
    """The config with no field left open; raises InputError for fields that would fail later."""
    run = build_run(config, devices)
    config = run.config
    if config.eval.ensemble:
        raise InputError(
            f"eval.ensemble={config.eval.ensemble}: names trained runs for eval.py; expected '' to "
            "train"
        )
    make_objective(run.matcher, config)
    if not run.has_parameters:
        raise InputError(f"{config.name} has nothing to train: run eval.py with this config")
    check_trainable(run)
    sharding.check_divisible(config.train.batch_items, devices, "train.batch_items")
    if chunk := config.train.embed_chunk:
        group = photos_together(config.data)
        check_chunk(chunk, config.train.batch_items * group, group)
    if config.train.eval_every:
        sharding.check_divisible(config.eval.batch, devices, "eval.batch")
        sharding.check_divisible(config.eval.query_block, devices, "eval.query_block")
    return config


def _load_dataset(config: ml_collections.ConfigDict) -> Any:
    """Opens the data set; the first process prepares it if need be, the others wait."""
    from input_pipeline import load_dataset  # the pipeline is loaded only where it is used

    if jax.process_count() == 1:
        return load_dataset(config.data)
    if jax.process_index() == 0:
        dataset = load_dataset(config.data)
    multihost_utils.sync_global_devices("data set prepared")
    if jax.process_index() > 0:
        dataset = load_dataset(config.data)
    return dataset


def _describe_data(config: ml_collections.ConfigDict, dataset: Any) -> str:
    """What the records and the cuts are made from; a run continues on the same alone."""
    prepared = f"{dataset.directory.parent.name}/{dataset.directory.name}"
    for what, path in (("boxes", config.data.detections), ("points", config.data.points)):
        if path == ANNOTATED:
            prepared += f", annotated {path}"
        elif path:
            content = epath.Path(path).expanduser().read_bytes()
            prepared += f", {what} {hashlib.blake2b(content, digest_size=6).hexdigest()}"
    return prepared


def _check_classes(config: ml_collections.ConfigDict, dataset: Any) -> None:
    """Raises InputError where a model's outputs are not the data set's labels."""
    classes, index = config.model.get("classes", 0), dataset.split("train").index
    check_labels(config.model, index)
    what, names = "categories", index.categories
    if config.loss.get("label") == "item":
        what, names = "items to train on", index.items
    if config.loss.get("label") == "meta_class":  # classes are made, as many as there are logits
        return
    if 0 < classes < len(names):
        raise InputError(
            f"model.classes: {classes}, but {dataset.name} has {len(names)} {what}: "
            f"set --config.model.classes={len(names)}"
        )


def _steps_per_epoch(config: ml_collections.ConfigDict, dataset: Any) -> int:
    from input_pipeline import steps_per_epoch

    return steps_per_epoch(dataset.split("train"), config.data, config.train.batch_items)


class _Loop:
    """The steps of one run, and what happens between them."""

    def __init__(
        self, run: Run, dataset: Any, saved: checkpoints.Checkpoints, writer: MetricWriter
    ):
        self._run = run
        self._dataset = dataset
        self._saved = saved
        self._writer = writer
        index = dataset.split("train").index
        objective = make_objective(run.matcher, run.config, steps=run.steps, index=index)
        self._step = make_train_step(objective, run.tx, run.schedule, run.mesh)
        self._evaluator = Evaluator(run.matcher, run.config, run.mesh)
        self._can_evaluate = run.config.train.eval_every > 0 and dataset.has_split("val")
        if run.config.train.eval_every > 0 and not self._can_evaluate:
            logging.info("The data set has no val split: the last checkpoint counts as the best.")
        self._recognition: RecognitionEvaluator | None = None
        if recognises_categories(run.matcher, run.config):
            self._recognition = RecognitionEvaluator(run.matcher, run.config, run.mesh)
        self._task: Task | None = None
        if self._can_evaluate and (not self._recognition or has_both_domains(dataset.split("val"))):
            self._task = make_task(  # all of val's queries, in val's own gallery
                dataset,
                "val",
                run.config.data,
                same_category=run.config.eval.same_category,
                whitening=run.config.eval.whitening,
            )
        self._unread: list[tuple[int, Mapping[str, jax.Array]]] = []

    def run(self, state: TrainState) -> TrainState:
        """Steps from the state's to the last."""
        config, first, last = self._run.config.train, int(state.step), self._run.steps
        if first >= last:
            logging.info("All %d steps are done.", last)
            return state
        started = None
        with (
            _StopSignal() as stop,
            tqdm(total=last, initial=first, desc="train", unit="step", dynamic_ncols=True,
                 disable=jax.process_index() > 0) as bar,
        ):  # fmt: skip
            bar.set_postfix_str("compiling the step")
            for step, batch in enumerate(self._batches(first), start=first + 1):
                state, metrics = self._step(state, batch)
                self._unread.append((step, metrics))
                stopping = step == last
                if step % config.log_every == 0 or stopping or step == first + 1:
                    self._log(bar, started)
                    started = (step, time.monotonic())
                    stopping = stop.agreed() or stopping
                elif jax.process_count() == 1:
                    stopping = stop.agreed()
                evaluating = self._can_evaluate and (step % config.eval_every == 0 or step == last)
                if evaluating or stopping or step % config.checkpoint_every == 0:
                    self._log(bar, started)  # nothing is saved before its loss was looked at
                    figures = self._evaluate(step, state) if evaluating else None
                    self._saved.save(state, self._run.config.to_dict(), figures)
                    started = None
                bar.update()
                if stopping and step < last:
                    logging.info("Asked to stop: saved step %d. The same command goes on.", step)
                    break
        return state

    def _batches(self, first: int) -> Iterator[Any]:
        """The batches of the steps after `first`, on the devices, one ahead of their use."""
        from input_pipeline import train_batches

        config = self._run.config
        batches = train_batches(
            self._dataset.split("train"),
            config.data,
            batch_items=config.train.batch_items,
            start_step=first,
            steps=self._run.steps - first,
            seed=config.seed,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        ahead = None
        for batch in batches:
            arrays = {name: value for name, value in batch.items() if name != "step"}
            placed = sharding.place_batch(arrays, self._run.mesh)
            if ahead is not None:
                yield ahead
            ahead = placed
        if ahead is not None:
            yield ahead

    def _log(self, bar: tqdm, started: tuple[int, float] | None) -> None:
        """Reads the metrics of the steps since the last call; stops the run at a bad one."""
        if not self._unread:
            return
        unread = [
            (step, {name: float(value) for name, value in metrics.items()})
            for step, metrics in self._unread
        ]
        self._unread = []
        for step, values in unread:
            if not np.isfinite(values["loss"]) or not np.isfinite(values["gradient_norm"]):
                raise NonFiniteLossError(self._non_finite(step, values))
        step = unread[-1][0]
        means = {name: float(np.mean([v[name] for _, v in unread])) for name in unread[-1][1]}
        means["learning_rate"] = unread[-1][1]["learning_rate"]
        if started is not None and step > started[0]:
            elapsed = time.monotonic() - started[1]
            means["steps_per_second"] = (step - started[0]) / elapsed
        self._writer.write_scalars(step, {f"train/{k}": v for k, v in means.items()})
        shown = {name: f"{means[name]:.2f}" for name in _SHOWN if name in means}
        bar.set_postfix(loss=f"{means['loss']:.4f}", **shown)

    def _non_finite(self, step: int, values: Mapping[str, float]) -> str:
        last = self._saved.last_step
        good = "there is no checkpoint yet" if last is None else f"the last good one is step {last}"
        return (
            f"step {step}: loss {values['loss']}, gradient norm {values['gradient_norm']}, "
            f"parameter norm before it {values['parameter_norm']:.6g}, learning rate "
            f"{values['learning_rate']:.3g}. Nothing was saved after it; {good}. "
            "Try a smaller optimizer.learning_rate or optimizer.clip_norm."
        )

    def _evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        """Figures over all queries of the val split, and of what is recognised in its photos."""
        figures: dict[str, float] = {}
        if self._task is not None:
            found = self._evaluator.evaluate(state.variables, self._task)
            figures |= found.figures["all"].values
        if self._recognition is not None:
            seen = self._recognition.evaluate(state.variables, self._dataset, "val")
            figures |= seen.values
        self._writer.write_scalars(step, {f"val/{k}": v for k, v in figures.items()})
        return figures


class _StopSignal:
    """Whether SIGTERM or SIGINT came, agreed on by all processes."""

    def __init__(self) -> None:
        self._came = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self._came = True
        # A second signal means it: it gets what it would have got without us.
        signal.signal(number, self._previous[number])

    def agreed(self) -> bool:
        """Whether any process was asked to stop; with several, all have to call this."""
        if jax.process_count() == 1:
            return self._came
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self._came))))


def _describe(run: Run, state: TrainState, dataset: Any) -> None:
    """Logs the parameters, the data and the length of the run."""
    if jax.process_index() == 0:
        parameter_overview.log_parameter_overview(state.params)
    config = run.config.train
    batch = {
        "pairs": f"items x 2 photos ({config.batch_items**2} pairs)",
        "items": f"items x {run.config.data.photos_per_item} photos",
        "photos": "photos",
    }[run.config.data.sampler]
    logging.info(
        "%s: %d steps of %d %s on %d device(s)",
        dataset.name,
        run.steps,
        config.batch_items,
        batch,
        run.mesh.size,
    )
