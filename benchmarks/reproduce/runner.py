"""A row of a table as a run of train.py and eval.py, made once whichever tables it stands in."""

import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import pathlib
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from benchmarks.costs import matcher_costs
from benchmarks.reproduce.papers import SYNTHETIC, Paper, Row, Table
from benchmarks.results_file import ROOT, ResultsFile, run_command
from grnet_jax.config import fields_affecting, parse_config
from grnet_jax.errors import InputError
from grnet_jax.training.build import count_steps
from grnet_jax.training.checkpoints import Checkpoints
from input_pipeline import keypoint_names, load_dataset, steps_per_epoch

_PRETRAINED = "model.backbone.pretrained"
_KEYPOINTS, _NUM_KEYPOINTS = "image.keypoints", "model.num_keypoints"
_LABELS = ("num_classes", "num_attributes")  # fields of models that recognize them
_INIT_FROM = "train.init_from"
_DETECTIONS = "image.detections"
_BOXES = "detections/boxes.csv"  # in a detector's run
_OBJECTS = "synthetic_objects"  # the synthetic set as detectors see it
FILES = (_DETECTIONS, "eval.protocol.queries")  # fields of files, known by content
_KEYS = ("dataset", "config", "recipe", "fields", "seed")
_GROUP_METRICS = ("top1", "top20", "top50")
_RECOGNITION = ("split", "photos", "values", "intervals", "kinds", "pdj")
_MAX_ATTRIBUTES = 70  # that a row keeps, as many as FashionNet's Fig. 7 has: the most frequent
_NO_FILES: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config and a seed.

    Attributes:
      config: the file under configs/, "FILE" or "FILE:VARIANT".
      dataset: the config's argument.
      fields: those that differ from the file's own values, as JSON has them, with the run that it
        starts from and "ensemble", the runs that it evaluates together.
      seed: of the parameters, the order of the pairs and the flips.
      local: fields of this machine: those of `local_fields`, and the row's files.
      start: the run that this one starts from.
      detector: the run that finds the boxes that this one crops.
      members: those whose runs this one evaluates together, and so trains none itself.
    """

    config: str
    dataset: str
    fields: Mapping[str, Any]
    seed: int
    local: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start: "Experiment | None" = None
    detector: "Experiment | None" = None
    members: tuple["Experiment", ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others in the results file."""
        return {name: getattr(self, name) for name in _KEYS}

    @property
    def recipe(self) -> str:
        """What the config's own values are known by, with the side of the image and the backbone.

        Of those that parameters, features or scores depend on and that are no defaults, so that a
        new field makes no other recipe.
        """
        return _recipe(self.config, self.dataset)

    @property
    def name(self) -> str:
        """The run's folder, whatever the seed; experiments that differ in evaluation share it."""
        trained = {name: value for name, value in self.fields.items() if not _measures(name)}
        trained["recipe"] = self.recipe
        what = "ensemble_" if self.members else ""
        return f"{what}{self.config}_{self.dataset}_{_digest(trained)}".replace(":", "_")

    @property
    def workdir(self) -> str:
        """The run's folder."""
        return f"{self.name}_seed{self.seed}"

    @property
    def output(self) -> str:
        """The folder of its results.json."""
        measured = {name: value for name, value in self.fields.items() if _measures(name)}
        return f"{self.workdir}/eval_{_digest(measured)}" if measured else self.workdir

    @property
    def settings(self) -> dict[str, Any]:
        """All config fields that are set, here on this machine."""
        fields = {name: value for name, value in self.fields.items() if name != "ensemble"}
        return {**fields, "seed": self.seed, **self.local}

    def read_config(self) -> Any:
        """Returns its config, a ConfigDict."""
        return read_config(self.config, self.dataset, _flags(self.settings))


def make_experiment(
    paper: Paper,
    table: Table,
    row: Row,
    dataset: str,
    seed: int = 0,
    given: Sequence[str] = (),
    files: Mapping[str, str] = _NO_FILES,
) -> Experiment:
    """Returns the experiment of a row that is built here.

    Args:
      paper: that the table is of.
      table: that the row stands in.
      row: to run.
      dataset: one of the table's.
      seed: of the run.
      given: `--config.FIELD=VALUE` of the user, for every row; those of the backbone and of
        what is started from not for rows with weights of their own, those of keypoints not for
        rows with their own, and numbers of labels not for rows that recognize none.
      files: by backbone the file of its weights, which every row of it starts from on published
        sets, by name that of keypoints, and by data set of a `Start` where it lies; "" where that
        does not matter, for nothing is run.

    Raises:
      InputError: a field that the config does not have, a value that it cannot have, or a file
        that is not given.
    """
    if row.file and row.file not in files:
        page = "docs/fashionnet.md" if row.keypoints else "docs/backbones.md"
        raise InputError(
            f"row {row.number} of {table.name} ({row.label}) needs {row.kind}: expected "
            f"{row.needs}, a file that {page} tells how to make"
        )
    fields, start = paper.fields_of(table, row, dataset), paper.starts.get(dataset)
    detector = _make_detector(paper, fields, dataset, given)
    if detector:
        fields |= {_DETECTIONS: detector.workdir}
    own = {paper.config, row.config or paper.config}  # all of a paper's rows have one budget
    if start and not any(_has_start(read_config(name, dataset)) for name in own):
        first = _make_start(paper, table, row, dataset, given, files)
        if first:
            fields |= {_INIT_FROM: first.workdir, "train.init_params": start.params}
            experiment = _make(paper, row, fields, dataset, seed, given, files)
            return dataclasses.replace(experiment, start=first, detector=detector)
    experiment = _make(paper, row, fields, dataset, seed, given, files)
    experiment = dataclasses.replace(experiment, detector=detector)
    if row.members:
        members = tuple(
            make_experiment(paper, table, member, dataset, seed, given, files)
            for member in table.members(row)
        )
        fields = {**experiment.fields, "ensemble": [member.name for member in members]}
        return dataclasses.replace(experiment, fields=fields, members=members)
    return experiment


def _make_detector(
    paper: Paper, fields: Mapping[str, Any], dataset: str, given: Sequence[str]
) -> Experiment | None:
    """The run whose boxes a row on the synthetic set crops; None where it crops none."""
    row = paper.synthetic.detector
    crops = "detected" in (fields.get("image.crop"), fields.get("image.shop_crop"))
    own = any(word.startswith(f"--config.{_DETECTIONS}=") for word in given)
    if dataset != SYNTHETIC or not crops or own or row is None:
        return None
    words = [word for word in given if word.startswith("--config.dataset.")]
    return _make(paper, row, row.fields, _OBJECTS, 0, words)


def _has_start(config: Any) -> bool:
    """Whether a config starts from a run or from weights itself."""
    return bool(config.train.init_from or config.model.backbone.pretrained)


def _make_start(
    paper: Paper,
    table: Table,
    row: Row,
    dataset: str,
    given: Sequence[str],
    files: Mapping[str, str],
) -> Experiment | None:
    """The run that a row starts from; None where it has none, or not this backbone."""
    start = paper.starts[dataset]
    if (
        row.weights
        or row.members
        or any(word.startswith(f"--config.{_INIT_FROM}") for word in given)
    ):
        return None
    if start.row:
        own = _make(paper, row, paper.fields_of(table, row, dataset), dataset, 0, given)
        first = _make(paper, start.row, start.row.fields, dataset, 0, given, files)
        names = {one.read_config().model.backbone.name for one in (own, first)}
        return first if len(names) == 1 else None
    if start.dataset not in files:
        return None
    fields = paper.fields_of(table, row, start.dataset)
    other = tuple(f"--config.{name}" for name in ("dataset.source=", "model.num_", *FILES))
    words = [word for word in given if not word.startswith(other)]
    words.append(f"--config.dataset.source={files[start.dataset]}")
    return _make(paper, row, fields, start.dataset, 0, words, files)


def _make(
    paper: Paper,
    row: Row,
    fields: Mapping[str, Any],
    dataset: str,
    seed: int,
    given: Sequence[str],
    files: Mapping[str, str] = _NO_FILES,
) -> Experiment:
    """A run of its own, from the fields that differ from the config's."""
    name = row.config or paper.config
    own = read_config(name, dataset)
    words = [*_flags(fields), *_flags_for(row, own.model, given)]
    words += _flags({_KEYPOINTS: row.keypoints} if row.keypoints else {})
    config = read_config(name, dataset, words)
    names = dict.fromkeys(word.removeprefix("--config.").partition("=")[0] for word in words)
    changed = {at: _at(config, at) for at in names if _at(config, at) != _at(own, at)}
    plain = json.loads(json.dumps(changed))
    local = {field: plain.pop(field) for field in local_fields(dataset) if field in plain}
    for field in plain.keys() & set(FILES):
        local[field], plain[field] = plain[field], file_digest(plain[field])
    if row.keypoints and files.get(row.keypoints):
        local |= _local_keypoints(files[row.keypoints])
    backbone = row.weights or weights_name(config, dataset)
    if backbone in files:
        plain[_PRETRAINED] = file_digest(files[backbone])
        local |= {_PRETRAINED: files[backbone]} if files[backbone] else {}
    return Experiment(name, dataset, plain, seed, local)


@functools.cache
def _recipe(config: str, dataset: str) -> str:
    own = parse_config(read_config(config, dataset))
    changed = _flatten(own.model_dump(mode="json", exclude_defaults=True))
    affecting = fields_affecting(own, "parameters", "features", "scores")
    digest = _digest({name: changed[name] for name in affecting if name in changed})
    backbone = own.model.backbone.name if hasattr(own.model, "backbone") else own.model.name
    return f"{own.image.size}px_{backbone}_{digest}"


def _flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    values: dict[str, Any] = {}
    for name, value in section.items():
        inner = isinstance(value, Mapping)
        values |= _flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return values


def weights_name(config: Any, dataset: str) -> str:
    """Returns the backbone whose ImageNet weights a config starts from, where they are given.

    "" on the synthetic set, without a backbone, and where another run is started from.
    """
    if dataset == SYNTHETIC or "backbone" not in config.model or config.train.init_from:
        return ""
    return str(config.model.backbone.name)


def backbones(paper: Paper, table: Table, dataset: str) -> list[str]:
    """Returns the backbones of a table's rows that start from ImageNet weights where given."""
    names = []
    for row in table.choose():
        for one in table.members(row) or (row,):
            words = _flags(paper.fields_of(table, one, dataset))
            words += _flags({_KEYPOINTS: one.keypoints} if one.keypoints else {})
            names.append(
                weights_name(read_config(one.config or paper.config, dataset, words), dataset)
            )
    return [name for name in dict.fromkeys(names) if name]


@functools.cache
def file_digest(file: str) -> str:
    """Returns what a file is known by wherever it lies: a digest of its content.

    Of one that is not there, for nothing is run, its name; of "" "".
    """
    # As train.py will find it, which runs at the root.
    path = ROOT / pathlib.Path(file).expanduser()
    if not file or not path.is_file():
        return path.name if file else ""
    with path.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()[:16]}"


def local_fields(dataset: str) -> tuple[str, ...]:
    """Returns the fields of where things lie, which tell no rows apart."""
    source = (
        () if dataset in (SYNTHETIC, _OBJECTS) else ("dataset.source",)
    )  # there it is the set's size
    return ("dataset.dir", *source, "eval.search.store")


def _flags_for(row: Row, model: Any, given: Sequence[str]) -> list[str]:
    """Those of the user's flags that are for a row, given the section `model` of its config."""
    others = [f"model.{field}" for field in _LABELS if field not in model]
    if row.config and "num_attributes" not in model:  # another system's classes
        others.append("model.num_classes")
    others += [_KEYPOINTS, _NUM_KEYPOINTS] if row.keypoints else []
    left_out = tuple(f"--config.{field}=" for field in others)
    left_out += ("--config.model.backbone.", "--config.train.init_") if row.weights else ()
    return [word for word in given if not word.startswith(left_out)]


def _local_keypoints(path: str) -> dict[str, Any]:
    """The field of the keypoints' file with its path, and how many there are."""
    names = keypoint_names(str(ROOT / pathlib.Path(path).expanduser()))
    return {_KEYPOINTS: path, _NUM_KEYPOINTS: len(names)}


def read_config(config: str, dataset: str, given: Sequence[str] = ()) -> Any:
    """Returns the config of a file under configs/ with fields set as on the command line.

    Args:
      config: "FILE" or "FILE:VARIANT".
      dataset: its argument; behind a comma follows the variant.
      given: `--config.FIELD=VALUE`.

    Raises:
      InputError: a field that it does not have, or a value that it cannot have.
    """
    file, _, variant = config.partition(":")
    argument = f"{dataset},{variant}" if variant else dataset
    own = importlib.import_module(f"configs.{file}").get_config(argument)
    return set_fields(own, given, f"configs/{file}.py")


def set_fields(config: Any, given: Sequence[str], where: str) -> Any:
    """Returns a config with fields set as on the command line.

    Args:
      config: as a file gives it.
      given: `--config.FIELD=VALUE`.
      where: what errors call the config.

    Raises:
      InputError: a field that it does not have, or a value that it cannot have.
    """
    if not given:
        return config
    values, argv = flags.FlagValues(), ["", *given]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, lock_config=True, sys_argv=argv
        )
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{' '.join(given)}: expected fields of {where}: {error}") from error
    if rest[1:]:
        raise InputError(f"unexpected argument {rest[1]!r}; options are --NAME=VALUE")
    return values.config


def open_results(paper: Paper, dataset: str, command: str, folder: pathlib.Path) -> ResultsFile:
    """Opens the file of all that was measured for a paper on a data set."""
    return ResultsFile(f"reproduce_{paper.name}_{dataset}", command, _KEYS, folder)


def find_results(
    paper: Paper,
    table: Table,
    dataset: str,
    rows: Sequence[Mapping[str, Any]],
    given: Sequence[str] = (),
    files: Mapping[str, str] = _NO_FILES,
) -> dict[int, list[Mapping[str, Any]]]:
    """Returns by number the results of a table's rows, every seed that was measured.

    Args:
      paper: that the table is of.
      table: whose rows are looked for.
      dataset: that they were measured on.
      rows: of the results file.
      given: as `make_experiment` takes it.
      files: as `make_experiment` takes them. A row that needs weights which are not given is found
        with any, those of the last that was measured.
    """
    results = {}
    for row in table.choose():
        needed = {one.file: "" for one in (row, *table.members(row)) if one.file}
        try:
            experiment = make_experiment(paper, table, row, dataset, 0, given, {**needed, **files})
        except InputError:  # a row that cannot have what is given was not measured with it
            continue
        found = [one for one in rows if _is_of(one, experiment)]
        weights = found[-1]["fields"].get(_PRETRAINED) if found else None
        results[row.number] = [one for one in found if one["fields"].get(_PRETRAINED) == weights]
    return {number: seeds for number, seeds in results.items() if seeds}


def other_recipes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the recipes of rows of a results file that are not their configs' any more."""
    return sorted(
        {row["recipe"] for row in rows if row["recipe"] != _recipe(row["config"], row["dataset"])}
    )


def _is_of(result: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether a row of a results file is an experiment's, with any seed."""
    key, fields = experiment.key, dict(result["fields"])
    if key["fields"].get(_PRETRAINED) == "" and fields.get(_PRETRAINED):
        fields[_PRETRAINED] = ""
    measured = {**result, "fields": fields, "seed": key["seed"]}
    return all(measured[name] == key[name] for name in _KEYS)


def run_experiment(
    experiment: Experiment, runs: pathlib.Path, *, groups: bool = False
) -> dict[str, Any]:
    """Trains and evaluates, going on where a stopped run was; returns the row of the results file.

    Args:
      experiment: what to run.
      runs: folder of the workdirs.
      groups: whether the row has retrieval by view, scale and category of the query, and recall of
        the most frequent attributes and curves of kinds of landmarks too.

    Raises:
      subprocess.CalledProcessError: train.py or eval.py failed, or training was stopped.
    """
    seconds = [_train(one, runs) for one in experiment.members or (experiment,)]
    started = time.monotonic()
    run_command(*commands(experiment, runs)[-1])
    output = ROOT / runs / experiment.output
    ranked, recognized = (
        json.loads(path.read_text()) if path.exists() else {}
        for path in (output / "results.json", output / "recognition.json")
    )
    return {
        **experiment.key,
        "step": (ranked or recognized)["step"],
        "train_seconds": None if experiment.members else seconds[0],
        "eval_seconds": round(time.monotonic() - started),
        "protocols": {
            name: _select(metrics, r"top\d+|map") | {"gallery": metrics["gallery"]}
            for name, metrics in ranked.get("protocols", {}).items()
        },
        "parameters_m": round(sum(map(_parameters, experiment.members or (experiment,))) / 1e6, 1),
        **({"recognition": select_recognition(recognized, groups=groups)} if recognized else {}),
        **(select_groups(ranked) if groups else {}),
    }


def _train(experiment: Experiment, runs: pathlib.Path) -> int | None:
    """Trains what the run starts from, then the run, where they are not done.

    Returns the seconds that the run took; None where it had been begun before.
    """
    if experiment.start:
        _train(experiment.start, runs)
    if experiment.detector:
        find_boxes(experiment.detector, runs)
    begun = (ROOT / runs / experiment.workdir).exists()
    if begun and not _steps_left(experiment, runs):
        return None
    started = time.monotonic()
    run_command(*commands(experiment, runs)[0])
    return None if begun else round(time.monotonic() - started)


def find_boxes(detector: Experiment, runs: pathlib.Path) -> pathlib.Path:
    """Trains a detector and finds the boxes of the synthetic set's photos, where that is not done.

    Returns their file.
    """
    _train(detector, runs)
    return boxes_of_run(runs / detector.workdir, detector.settings)


def boxes_of_run(workdir: pathlib.Path, settings: Mapping[str, Any]) -> pathlib.Path:
    """Finds the boxes by a trained detector, where that is not done.

    Args:
      workdir: of the detector's run.
      settings: config fields, of which those of the data set count.

    Returns:
      Their file.
    """
    path = ROOT / workdir / _BOXES
    if not path.exists():
        run_command(*_detect_command(workdir, settings))
    return path


def boxes_file(detector: Experiment) -> str:
    """Returns where a detector's boxes are, below the folder of the runs."""
    return f"{detector.workdir}/{_BOXES}"


def _detect_command(workdir: pathlib.Path, settings: Mapping[str, Any]) -> list[str]:
    words = ["-m", "grnet_jax.detect", f"--dataset={SYNTHETIC}", f"--class_map={SYNTHETIC}"]
    words += [f"--workdir={workdir}", "--no_pictures"]
    given = {name: settings.get(f"dataset.{name}") for name in ("source", "dir")}
    return [*words, *(f"--{name}={value}" for name, value in given.items() if value)]


def _steps_left(experiment: Experiment, runs: pathlib.Path) -> int:
    """How many steps the run's last checkpoint is before its end."""
    config: Any = parse_config(experiment.read_config())
    epoch = 0
    if not config.train.steps:
        split = load_dataset(config.dataset).split("train")
        epoch = steps_per_epoch(split, config.sampler, config.train.batch_size)
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file it touches
    with Checkpoints(epath.Path(ROOT / runs / experiment.workdir)) as saved:
        return count_steps(config.train, epoch) - (saved.last_step or 0)


def commands(experiment: Experiment, runs: pathlib.Path) -> tuple[list[str], ...]:
    """Returns train.py and eval.py with their flags; of an ensemble eval.py alone."""
    settings = experiment.settings
    if experiment.start:
        settings[_INIT_FROM] = str(runs / experiment.start.workdir)
    if experiment.detector:
        settings[_DETECTIONS] = str(runs / boxes_file(experiment.detector))
    workdirs = ",".join(str(runs / one.workdir) for one in experiment.members or (experiment,))
    measured = {n: v for n, v in settings.items() if n.startswith(("eval.", "dataset."))}
    evaluate = ["eval.py", f"--workdir={workdirs}", *_flags(measured)]
    if experiment.members or experiment.output != experiment.workdir:
        evaluate.append(f"--output={runs / experiment.output}")
    if experiment.members:
        return (evaluate,)
    file, _, variant = experiment.config.partition(":")
    argument = f"{experiment.dataset},{variant}" if variant else experiment.dataset
    trained = {name: value for name, value in settings.items() if not _measures(name)}
    words = [f"--config=configs/{file}.py:{argument}", *_flags(trained), f"--workdir={workdirs}"]
    return ["train.py", *words], evaluate


def all_commands(experiment: Experiment, runs: pathlib.Path) -> list[list[str]]:
    """Returns what trains all that a row needs, each run once, and evaluates it."""
    members = experiment.members or (experiment,)
    first = {one.start.workdir: one.start for one in members if one.start}
    detectors = {one.detector.workdir: one.detector for one in members if one.detector}
    found = [
        [commands(d, runs)[0], _detect_command(runs / d.workdir, d.settings)]
        for d in detectors.values()
    ]
    trained = [commands(one, runs)[0] for one in (*first.values(), *members)]
    return [*itertools.chain(*found), *trained, commands(experiment, runs)[-1]]


def _parameters(experiment: Experiment) -> int:
    return matcher_costs(parse_config(experiment.read_config())).parameters


def select_recognition(recognized: Mapping[str, Any], *, groups: bool) -> dict[str, Any]:
    """Returns what tables and plots need of a recognition.json; groups as of `run_experiment`."""
    kept = {name: recognized[name] for name in _RECOGNITION}
    if not groups:
        return kept
    every = recognized["attributes"]
    frequent = sorted(every, key=lambda name: -every[name]["photos"])[:_MAX_ATTRIBUTES]
    recalls = {name: every[name]["recall5"] for name in frequent}
    return {**kept, "attributes": recalls, "pdj_parts": recognized["pdj_parts"]}


def select_groups(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns retrieval by view, scale and category of the query, where a results.json has it."""
    groups = {
        f"{kind}: {name}": _select(metrics, "|".join(_GROUP_METRICS)) | {"title": f"{kind}: {name}"}
        for kind, of_kind in results.get("breakdowns", {}).items()
        for name, metrics in of_kind.items()
        if metrics["queries"]
    }
    return {"breakdowns": groups} if groups else {}


def _select(metrics: Mapping[str, Any], names: str) -> dict[str, Any]:
    """What tables and curves need of a protocol's metrics: those whose names match."""
    described = ("title", "queries", "queries_without_match")
    kept = [name for name in metrics if name in described or re.fullmatch(names, name)]
    intervals = {k: v for k, v in metrics["intervals_95"].items() if re.fullmatch(names, k)}
    return {name: metrics[name] for name in kept} | {"intervals_95": intervals}


def _measures(field: str) -> bool:
    """Whether a field changes what is measured of a run alone."""
    validates = field == "eval.protocol.val_queries"
    return field.startswith(("eval.protocol.", "eval.search.")) and not validates


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def _at(config: Any, field: str) -> Any:
    for part in field.split("."):
        config = config[part]
    return config


def _flags(fields: Mapping[str, Any]) -> list[str]:
    """`--config.FIELD=VALUE` of fields in order; lists are what JSON makes of tuples."""
    return [f"--config.{name}={_tuples(fields[name])}" for name in sorted(fields)]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def show(words: Sequence[str]) -> str:
    """Returns a command as a user types it."""
    return shlex.join(["python", *words])
