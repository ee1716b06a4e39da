"""The training loop of every system here."""

import hashlib
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from grnet_jax import sharding
from grnet_jax.config import Config
from grnet_jax.errors import InputError
from grnet_jax.evaluation import build_evaluators
from grnet_jax.evaluation.detection import as_seen, object_shape
from grnet_jax.training import checkpoints
from grnet_jax.training.build import Run, build_run
from grnet_jax.training.frozen_features import FrozenFeatures, load_frozen_features
from grnet_jax.training.gradient_cache import check_chunk
from grnet_jax.training.init_from import check_pretrained, check_trainable, start_state
from grnet_jax.training.label_names import (
    check_labels,
    warn_of_other_labels,
    write_label_names,
)
from grnet_jax.training.objectives import build_objective
from grnet_jax.training.optimizers import count_warmup_steps
from grnet_jax.training.profiling import StepTrace
from grnet_jax.training.state import TrainState
from grnet_jax.training.step import make_train_step
from grnet_jax.training.writers import MetricWriter, check_writer, make_writer
from input_pipeline import (
    ANNOTATED,
    ObjectSplit,
    PrepareOptions,
    load_dataset,
    steps_per_epoch,
)

_IN_FLIGHT = 2  # steps dispatched before the host waits
# Of the objective's metrics, beside the loss.
_SHOWN = ("batch_top1", "embedding_batch_top1", "batch_accuracy")


class NonFiniteLossError(InputError):
    """The loss is no number any more; the message has the step, norms and last good checkpoint."""


class Trained(NamedTuple):
    """What `train` returns: the last state, and whether it is that of the last step."""

    state: TrainState
    finished: bool


def train(config: Config, workdir: epath.PathLike) -> Trained:
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
    directory = checkpoints.open_workdir(workdir)
    devices = sharding.make_mesh(model_parallel=config.train.model_parallel)
    _check(config, devices)  # before what may be hours of preparing data
    checkpoints.check_same_config(directory, config)
    if not checkpoints.has_any(directory):
        check_pretrained(config)
    dataset = as_seen(config, _load_dataset(config))
    split = dataset.split("train")
    epoch = steps_per_epoch(split, config.sampler, config.train.batch_size)
    run = build_run(config, devices, epoch)
    prepared = _describe_data(config, dataset)
    checkpoints.check_same_config(directory, config, prepared)
    check_labels(config, dataset.name, split.index)
    alone = checkpoints.lock_workdir(directory) if jax.process_index() == 0 else nullcontext()
    with (
        alone,
        checkpoints.Checkpoints(directory) as saved,
        make_writer(directory, config) as writer,
    ):
        if jax.process_index() == 0:
            checkpoints.write_config(directory, config, prepared)
            write_label_names(directory, split.index)
        state = saved.restore_last(run.abstract_state())
        if state is None:
            warn_of_other_labels(config, split.index)
            state = start_state(run)
            logging.info("Starting anew in %s", directory)
        else:
            logging.info("Continuing %s from step %d", directory, int(state.step))
        _describe(run, state, dataset)
        frozen = None
        if config.train.cached_views:
            whole = sharding.gather(state, run.mesh)
            frozen = load_frozen_features(run, whole, split, config.dataset.dir, prepared)
        with StepTrace(directory / "profile", config.train.profile) as trace:
            state = _Loop(run, dataset, saved, writer, frozen, trace).run(state)
    return Trained(state, finished=int(state.step) >= run.steps)


def _check(config: Config, devices: Mesh) -> None:
    """Raises InputError for what a config's fields alone do not show to be wrong."""
    if config.loss is None:
        raise InputError(f"{config.name} has nothing to train: run eval.py with this config")
    check_trainable(build_run(config, devices))
    check_writer(config)
    batch_size, group = config.train.batch_size, config.sampler.group_size
    sharding.check_divisible(batch_size, devices, "train.batch_size")
    if config.train.microbatch_size:
        check_chunk(config.train.microbatch_size, batch_size * group, group)
    if config.train.eval_every:
        sharding.check_divisible(config.eval.batch_size, devices, "eval.batch_size")


def _load_dataset(config: Config) -> Any:
    """Opens the data set; the first process prepares it if need be, the others wait."""
    if jax.process_count() == 1:
        return load_dataset(config.dataset)
    if jax.process_index() == 0:
        dataset = load_dataset(config.dataset)
    multihost_utils.sync_global_devices("data set prepared")
    if jax.process_index() > 0:
        dataset = load_dataset(config.dataset)
    return dataset


def _describe_data(config: Config, dataset: Any) -> str:
    """What the records and the crops are made from; a run continues on the same alone."""
    prepared = dataset.content
    for name, value in dataset.summary["options"].items():
        if value != PrepareOptions.model_fields[name].default:
            prepared += f", {name} {value}"
    for what, field in (("boxes", "detections"), ("keypoints", "keypoints")):
        path = getattr(config.image, field)
        if path == ANNOTATED:
            prepared += f", annotated {path}"
        elif path:
            try:
                content = epath.Path(path).expanduser().read_bytes()
            except OSError as error:
                raise InputError(f"image.{field}={path!r}: cannot be read: {error}") from error
            prepared += f", {what} {hashlib.blake2b(content, digest_size=6).hexdigest()}"
    return prepared


class _Loop:
    """The steps of one run, and what happens between them."""

    def __init__(
        self,
        run: Run,
        dataset: Any,
        saved: checkpoints.Checkpoints,
        writer: MetricWriter,
        frozen: FrozenFeatures | None,
        trace: StepTrace,
    ):
        self._run = run
        self._dataset = dataset
        self._saved = saved
        self._writer = writer
        self._frozen = frozen
        self._trace = trace
        index = dataset.split("train").index
        objective = build_objective(run.matcher, run.config, steps=run.steps, index=index)
        self._step = make_train_step(objective, run.tx, run.schedule, run.mesh)
        self._evaluators: Mapping[str, Any] = {}
        if run.config.train.eval_every and dataset.has_split("val"):
            self._evaluators = build_evaluators(
                run.config, run.matcher, run.mesh, dataset, "val", validation=True
            )
        elif run.config.train.eval_every:
            logging.info("The data set has no val split: the last checkpoint counts as the best.")
        self._unread: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._waited = 0.0  # seconds for batches since the last log

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
                 disable=jax.process_index() > 0 or None) as bar,  # None: where no terminal is
        ):  # fmt: skip
            bar.set_postfix_str("compiling the step")
            for step, batch in enumerate(self._timed(self._batches(first)), start=first + 1):
                self._trace.before(step)
                state, metrics = self._step(state, batch)
                self._trace.after(step, metrics)
                self._unread.append((step, metrics))
                if len(self._unread) > _IN_FLIGHT:
                    # Steps are only dispatched here: the bar counts those that are done.
                    done, finished = self._unread[-1 - _IN_FLIGHT]
                    jax.block_until_ready(finished)
                    bar.update(done - bar.n)
                stopping = step == last
                if step % config.log_every == 0 or stopping or step == first + 1:
                    self._log(bar, started)
                    started, self._waited = (step, time.monotonic()), 0.0
                    stopping = stop.agreed() or stopping
                elif jax.process_count() == 1:
                    stopping = stop.agreed()
                evaluating = bool(self._evaluators) and (
                    step % config.eval_every == 0 or step == last
                )
                if evaluating or stopping or step % config.checkpoint_every == 0:
                    self._log(bar, started)  # nothing is saved before its loss was looked at
                    metrics_found = self._evaluate(step, state) if evaluating else None
                    self._saved.save(state, metrics_found)
                    started = None
                if stopping and step < last:
                    logging.info("Asked to stop: saved step %d. The same command goes on.", step)
                    break
        return state

    def _batches(self, first: int) -> Iterator[Any]:
        """The batches of the steps after `first`, on the devices, one ahead of their use."""
        ahead = None
        for batch in self._read_batches(first):
            arrays: Any = {name: value for name, value in batch.items() if name != "step"}
            if self._frozen:
                arrays = self._frozen.wrap(arrays)
            placed = sharding.place_batch(arrays, self._run.mesh)
            if ahead is not None:
                yield ahead
            ahead = placed
        if ahead is not None:
            yield ahead

    def _read_batches(self, first: int) -> Iterator[Mapping[str, Any]]:
        """This host's part of the batches of the steps after `first`."""
        from input_pipeline import object_train_batches, train_batches  # which need TensorFlow

        config, split = self._run.config, self._dataset.split("train")
        common: dict[str, Any] = {
            "batch_size": config.train.batch_size,
            "start_step": first,
            "steps": self._run.steps - first,
            "seed": config.seed,
            "host": jax.process_index(),
            "hosts": jax.process_count(),
        }
        if isinstance(split, ObjectSplit):
            shape = object_shape(config, masks=True)
            return object_train_batches(split, shape, augment=config.augment, **common)
        return train_batches(
            split,
            config.image,
            config.augment,
            config.sampler,
            views=config.train.cached_views,
            read_views=self._frozen and self._frozen.read,
            **common,
        )

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; `_waited` grows by the seconds that each took to come."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

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
            images = self._run.config.train.batch_size * self._run.config.sampler.group_size
            means["images_per_second"] = images * means["steps_per_second"]
            means["input_wait_fraction"] = self._waited / elapsed
        self._writer.write_scalars(step, {f"train/{k}": v for k, v in means.items()})
        shown = {name: f"{means[name]:.2f}" for name in _SHOWN if name in means}
        bar.update(step - bar.n)
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
        """Metrics of the val split."""
        metrics: dict[str, float] = {}
        variables = sharding.gather(state.variables, self._run.mesh)
        for evaluator in self._evaluators.values():
            metrics |= evaluator.run(variables).values
        self._writer.write_scalars(step, {f"val/{k}": v for k, v in metrics.items()})
        return metrics


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
        from clu import parameter_overview  # only training needs it

        parameter_overview.log_parameter_overview(state.params)
    config = run.config.train
    batch = {
        "pairs": f"items x 2 images ({config.batch_size**2} pairs)",
        "items": f"items x {run.config.sampler.images_per_item} images",
        "images": "images",
    }[run.config.sampler.name]
    logging.info(
        "%s: %d steps of %d %s on %d device(s)",
        dataset.name,
        run.steps,
        config.batch_size,
        batch,
        run.mesh.size,
    )
    planned = run.config.optimizer.warmup_steps
    warmup = count_warmup_steps(run.config.optimizer, run.steps)
    if run.config.optimizer.schedule == "cosine" and warmup < planned:
        logging.info(
            "optimizer.warmup_steps: %d in place of %d, for the run is short", warmup, planned
        )
