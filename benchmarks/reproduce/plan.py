"""What a table's rows cost before any of them is run: steps, images, pairs, disk, memory, hours.

All is arithmetic from configs and from the sizes in plan.yaml; nothing is measured.
"""

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from benchmarks.costs import MatcherCosts, matcher_costs
from benchmarks.reproduce.papers import Row
from benchmarks.reproduce.runner import Experiment
from benchmarks.results_file import markdown_table
from grnet_jax.config import Config, drawn_queries, parse_config
from grnet_jax.training.build import count_steps

# A third of an A100's published bfloat16 peak, a tenth of an H100's; what a device reaches is not
# measured.
ASSUMED_TFLOPS = 100.0
_FLOAT32_RATE = 0.5  # of bfloat16's, as both devices' peaks of TF32 are
_CHECKPOINTS = 3  # the last two and the best
_FORWARD_BACKWARD = 3  # times the operations of the forward pass
_HEADS = (
    *("#", "row", "seed", "dtype", "steps", "images, M", "pairs, M", "parameters, M", "disk, GB"),
    *("state, GB", "features, GB", "training, h", "validation, h", "test, h"),
)


class RunPlan(NamedTuple):
    """What a run needs.

    Attributes:
      steps: of training.
      images: that training embeds.
      pairs: that training compares.
      parameters: of the matcher.
      disk: bytes of the checkpoints.
      state: bytes of parameters, gradients and the optimizer's moments on the device.
      features: bytes of the features of test's images in memory.
      training: floating-point operations, in 1e9.
      validation: the same of all validations.
      test: the same of the test.
    """

    steps: int
    images: int
    pairs: int
    parameters: int
    disk: float
    state: float
    features: float
    training: float
    validation: float
    test: float


def format_plan(experiments: Sequence[tuple[Row, Experiment]], tflops: float) -> str:
    """Returns the plan of rows as a table in Markdown, with what it assumes.

    Args:
      experiments: the rows; a run that an earlier one has is not counted again.
      tflops: 1e12 floating-point operations a second.
    """
    lines, planned, hours, disk = [], set(), 0.0, 0.0
    for number, label, experiment in _with_starts(experiments):
        runs = [one for one in experiment.members or (experiment,) if one.workdir not in planned]
        planned |= {one.workdir for one in runs}
        configs = [parse_config(one.read_config()) for one in runs]
        plans = [plan_run(*of) for of in zip(configs, (one.dataset for one in runs), strict=True)]
        if not plans:
            text = "an ensemble of rows above" if experiment.members else "as a row above"
            lines.append([number, label, experiment.seed, "", text])
            continue
        total = RunPlan(*(sum(of_run) for of_run in zip(*plans, strict=True)))
        dtype = configs[0].model.dtype
        rate = tflops * (1 if dtype == "bfloat16" else _FLOAT32_RATE) * 1e3 * 3600
        in_hours = [gflop / rate for gflop in (total.training, total.validation, total.test)]
        hours, disk = hours + sum(in_hours), disk + total.disk
        numbers = [total.images / 1e6, total.pairs / 1e6, total.parameters / 1e6, total.disk / 1e9]
        numbers += [max(one.state for one in plans) / 1e9, total.features / 1e9, *in_hours]
        cells = [number, label, experiment.seed, dtype, f"{total.steps:,}"]
        lines.append(cells + [_short(value) for value in numbers])
    wide = [[*line, *[""] * (len(_HEADS) - len(line))] for line in lines]
    notes = [
        f"In all {hours:.3g} h, counting {tflops:g} TFLOP/s for bfloat16 rows and "
        f"{tflops * _FLOAT32_RATE:g} for float32 rows (--tflops is of bfloat16), and "
        f"{disk / 1e9:.3g} GB of checkpoints. On an accelerator "
        "--config.model.dtype=bfloat16 is for every row.",
        "Operations are XLA's count of the forward pass, three times it in training. Reading and "
        "decoding of images are not counted, activations are in no memory.",
        "State: parameters, gradients and moments of the largest run on the device. Features: of "
        "test's images; above a quarter of the memory they are on the disk until the test ends.",
        "Validation is on eval.protocol.val_queries queries, in a gallery ten times as large.",
    ]
    if any(run.detector for _, one in experiments for run in one.members or (one,)):
        notes.append("The detector, which finds the boxes first, is not counted.")
    assumed = _sizes("assumed")
    for name in dict.fromkeys(one.dataset for _, one in experiments):
        notes += [f"Assumed sizes: {assumed[name]}."] if name in assumed else []
    return "\n".join([markdown_table(_HEADS, wide), *(f"- {note}" for note in notes)])


def _with_starts(
    experiments: Sequence[tuple[Row, Experiment]],
) -> Iterator[tuple[object, str, Experiment]]:
    """Yields number, label and run of each row, before them the runs that they start from."""
    begun = set()
    for row, experiment in experiments:
        for one in experiment.members or (experiment,):
            if one.start and one.start.workdir not in begun:
                begun.add(one.start.workdir)
                yield "", f"start of #{row.number}: {one.start.config}", one.start
        yield row.number, row.label, experiment


def plan_run(config: Config, dataset: str) -> RunPlan:
    """Returns the plan of a run.

    Args:
      config: the run's.
      dataset: of plan.yaml.
    """
    size, costs, batch = _sizes(dataset), matcher_costs(config), config.train.batch_size
    groups = size["pairs"] if config.sampler.name == "pairs" else size[config.sampler.name]
    if config.sampler.name == "pairs" and config.sampler.epoch == "items":
        groups = size["items"]
    per_group = {"pairs": 2, "items": config.sampler.images_per_item, "images": 1}
    images = batch * per_group[config.sampler.name]
    pairs = {"pairs": batch**2, "items": images**2, "images": 0}[config.sampler.name]
    steps = count_steps(config.train, math.ceil(groups / batch))
    moments = {"sgd": 1, "adamw": 2}[config.optimizer.name]
    protocol = config.eval.protocol
    queries = (drawn_queries(protocol.queries) or (0, 0))[0] or size["queries"]
    tested = size.get("photos", queries + size["gallery"])
    every = config.train.eval_every
    validations = steps // every if every and size["val"] else 0
    sampled = min(protocol.val_queries or size["queries"], size["queries"])
    return RunPlan(
        steps=steps,
        images=steps * images,
        pairs=steps * pairs,
        parameters=costs.parameters,
        disk=4.0 * _CHECKPOINTS * costs.parameters * (1 + moments),
        state=4.0 * costs.parameters * (2 + moments),
        features=float(tested * costs.feature_bytes) if queries else 0.0,
        training=steps * _FORWARD_BACKWARD * _gflop(costs, images, pairs),
        validation=validations * _gflop(costs, 11 * sampled, 10 * sampled**2),
        test=_gflop(costs, tested, queries * (config.eval.search.shortlist or size["gallery"])),
    )


def _gflop(costs: MatcherCosts, images: int, pairs: int) -> float:
    return images * costs.photo_gflop + pairs * costs.pair_gflop


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _sizes(dataset: str) -> dict[str, Any]:
    sizes = yaml.safe_load(pathlib.Path(__file__).with_name("plan.yaml").read_text())
    return dict(sizes[dataset])
