"""A row of a table as a run of train.py and eval.py, made once whichever tables it stands in."""

import dataclasses
import importlib
import json
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from grnet_jax.errors import InputError
from grnet_jax.evaluation.retrieval_metrics import TOP_K
from grnet_jax.reproduce.tables import Paper, Row, Table
from grnet_jax.results_file import ROOT, ResultsFile, run_command
from grnet_jax.search.fingerprints import fingerprint
from grnet_jax.training.checkpoints import Checkpoints
from grnet_jax.training.setup import count_steps

# Fields that tell neither what is trained nor what is measured: where things lie.
FREE = ("data.dir", "data.source", "data.manifest", "eval.store")
_PRETRAINED = "model.backbone.pretrained"
_POINTS, _GIVEN = "data.points", "model.given_keypoints"
_FIGURES = (*(f"top{k}" for k in TOP_K), "map")
_OF_GROUPS = ("top1", "top20", "top50")
_RECOGNISED = ("split", "photos", "values", "intervals", "kinds", "pdj")
_KEYS = ("dataset", "config", "fields", "seed")
_LABELS = ("categories", "attributes")  # fields of models that recognise them
_NO_FILES: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config and a seed.

    Attributes:
      config: the file under configs/.
      dataset: its argument.
      fields: those that differ from the file's own values, as JSON has them.
      seed: of the parameters, the order of the pairs and the flips.
      places: where things lie, fields of `FREE` and the row's own file with its number of points.
      start: whose backbone this one starts from; its workdir stands in `fields`.
      members: those whose runs this one evaluates together, and so trains none itself.
    """

    config: str
    dataset: str
    fields: Mapping[str, Any]
    seed: int
    places: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start: "Experiment | None" = None
    members: tuple["Experiment", ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others in the results file."""
        return {name: getattr(self, name) for name in _KEYS}

    @property
    def flags(self) -> list[str]:
        """For train.py and eval.py, without folders of runs."""
        fields = {**self.fields, "seed": self.seed, **self.places}
        for field in ("train.init_from", "eval.ensemble"):
            fields.pop(field, None)
        return [
            f"--config=configs/{self.config}.py:{self.dataset}",
            *(f"--config.{name}={_text(value)}" for name, value in fields.items()),
        ]

    @property
    def workdir(self) -> str:
        """The run's folder; experiments that differ in `eval` alone share it."""
        return f"{self.name}_seed{self.seed}"

    @property
    def name(self) -> str:
        """The run's folder, whatever the seed."""
        trained = {name: value for name, value in self.fields.items() if not _measures(name)}
        what = "ensemble_" if self.members else ""
        return f"{what}{self.config}_{self.dataset}_{fingerprint([trained])[:8]}"

    @property
    def output(self) -> str:
        """The folder of its results.json."""
        measured = {name: value for name, value in self.fields.items() if _measures(name)}
        return f"{self.workdir}/eval_{fingerprint([measured])[:8]}" if measured else self.workdir


def make_experiment(
    paper: Paper,
    table: Table,
    row: Row,
    dataset: str,
    seed: int = 0,
    given: Sequence[str] = (),
    files: Mapping[str, str] = _NO_FILES,
) -> Experiment:
    """The experiment of a row that is built here.

    Args:
      paper: that the table is of.
      table: that the row stands in.
      row: with fields.
      dataset: one of the table's.
      seed: of the run.
      given: `--config.FIELD=VALUE` of the user, for every row; those of the backbone not for rows
        that need weights, which have a backbone of their own, those of points not for rows that
        have points of their own, and numbers of labels not for rows of another config without.
      files: for each backbone whose weights rows start from, and for the points that rows pool
        around, where the file lies; "" where that does not matter, for nothing is run.

    Raises:
      InputError: a field that the config does not have, a value that it cannot have, or a file
        that is not given.
    """
    config = row.config or paper.config
    if row.file and row.file not in files:
        page = "docs/fashionnet.md" if row.points else "docs/backbones.md"
        raise InputError(
            f"row {row.number} of {table.name} ({row.label}) needs {row.kind}: expected "
            f"{row.needs}, a file that {page} tells how to make"
        )
    if row.points:
        own = tuple(f"--config.{field}=" for field in (_POINTS, _GIVEN))
        given = [word for word in given if not word.startswith(own)]
    if row.weights:
        given = [word for word in given if not word.startswith("--config.model.backbone.")]
        given += [f"--config.{_PRETRAINED}={files[row.weights] or row.weights}"]
    given = _of_model(given, read_config(config, dataset))
    experiment = _make(config, paper.fields(table, row, dataset), dataset, seed, given)
    if row.file:
        experiment = _with_file(experiment, row, files[row.file])
    if row.members:
        members = tuple(
            make_experiment(paper, table, member, dataset, seed, given, files)
            for member in row.members
        )
        together = {"eval.ensemble": ",".join(member.name for member in members)}
        fields = _sorted({**experiment.fields, **together})
        return dataclasses.replace(experiment, fields=fields, members=members)
    if row.weights or dataset not in paper.start:
        return experiment
    start = _make(paper.config, paper.start[dataset], dataset, 0, given)
    begins = {"train.init_from": start.workdir, "train.init_parts": "backbone"}
    fields = _sorted({**experiment.fields, **begins})
    return dataclasses.replace(experiment, fields=fields, start=start)


def _with_file(experiment: Experiment, row: Row, file: str) -> Experiment:
    """The experiment with the file that its row needs; it is the same wherever that lies."""
    field = _POINTS if row.points else _PRETRAINED
    places = {**experiment.places, field: file}
    if row.points and file:
        from input_pipeline.keypoints import keypoint_names  # loaded only where it is used

        # As train.py will find it, which runs at the root.
        path = ROOT / pathlib.Path(file).expanduser()
        places[_GIVEN] = len(keypoint_names(str(path)))
    fields = _sorted({**experiment.fields, field: row.file})
    return dataclasses.replace(experiment, fields=fields, places=places)


def _of_model(given: Sequence[str], config: Any) -> list[str]:
    """The flags without numbers of labels where the config's model has none to recognise."""
    others = {f"--config.model.{field}" for field in _LABELS if field not in config.model}
    return [word for word in given if word.partition("=")[0] not in others]


def _make(
    name: str, fields: Mapping[str, Any], dataset: str, seed: int, given: Sequence[str]
) -> Experiment:
    flags = [*(f"--config.{field}={_text(value)}" for field, value in fields.items()), *given]
    config = read_config(name, dataset, flags)
    own = read_config(name, dataset)
    named = dict.fromkeys(flag.removeprefix("--config.").partition("=")[0] for flag in flags)
    changed = {at: _at(config, at) for at in named if _at(config, at) != _at(own, at)}
    plain = json.loads(json.dumps(changed))
    return Experiment(
        name,
        dataset,
        _sorted({field: plain[field] for field in plain if field not in FREE}),
        seed,
        {field: plain[field] for field in plain if field in FREE},
    )


def read_config(config: str, dataset: str, given: Sequence[str] = ()) -> Any:
    """The config of a file under configs/ with fields set as on the command line.

    Raises:
      InputError: a field that it does not have, or a value that it cannot have.
    """
    own = importlib.import_module(f"configs.{config}").get_config(dataset)
    values, argv = flags.FlagValues(), ["", *given]
    try:
        config_flags.DEFINE_config_dict(
            "config", own, flag_values=values, lock_config=True, sys_argv=argv
        )
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{' '.join(given)}: expected fields of configs/{config}.py: {error}"
        ) from error
    if rest[1:]:
        raise InputError(f"unexpected argument {rest[1]!r}; options are --NAME=VALUE")
    return values.config


def open_results(paper: Paper, dataset: str, command: str, folder: pathlib.Path) -> ResultsFile:
    """The file of all that was measured for a paper on a data set."""
    return ResultsFile(f"reproduce_{paper.name}_{dataset}", command, _KEYS, folder)


def find_results(
    paper: Paper,
    table: Table,
    dataset: str,
    rows: Sequence[Mapping[str, Any]],
    given: Sequence[str] = (),
) -> dict[int, list[Mapping[str, Any]]]:
    """By number the results of a table's rows, every seed that was measured.

    Args:
      paper: that the table is of.
      table: whose rows are looked for.
      dataset: that they were measured on.
      rows: of the results file.
      given: as `make_experiment` takes it.
    """
    found = {}
    for row in table.choose(()):
        files = {row.file: ""}  # wherever it lies: it is the same row
        try:
            key = make_experiment(paper, table, row, dataset, 0, given, files).key
        except InputError:  # a row that cannot have what is given was not measured with it
            continue
        del key["seed"]
        found[row.number] = [
            result for result in rows if all(result[name] == key[name] for name in key)
        ]
    return {number: results for number, results in found.items() if results}


def run_experiment(
    experiment: Experiment, runs: pathlib.Path, *, groups: bool = False
) -> dict[str, Any]:
    """Trains and evaluates, going on where a stopped run was; returns the row of the results file.

    Args:
      experiment: what to run.
      runs: folder of the workdirs.
      groups: whether the row tells retrieval by view, scale and category of the query too.

    Raises:
      InputError: training was stopped before its last step.
      subprocess.CalledProcessError: train.py or eval.py failed.
    """
    for needed in (*experiment.members, experiment.start):
        if needed and not is_trained(needed, runs):
            _train(needed, runs)
    begun = bool(experiment.members) or (ROOT / runs / experiment.workdir).exists()
    started = time.monotonic()
    *training, evaluate = commands(experiment, runs)
    for train in training:
        run_command(*train)
        _check_finished(experiment, runs)
    trained = time.monotonic()
    run_command(*evaluate)
    output = ROOT / runs / experiment.output
    # Of a set whose photos cannot be ranked there is only what was recognised in them.
    seen = output / "recognition.json"
    ranked = output / "results.json"
    found = json.loads((ranked if ranked.exists() else seen).read_text())
    return {
        **experiment.key,
        "step": found["step"],
        # Of a run that went on where another had stopped, the time would be a part.
        "train_seconds": None if begun else round(trained - started),
        "eval_seconds": round(time.monotonic() - trained),
        "protocols": {name: _kept(part) for name, part in found.get("protocols", {}).items()},
        **_recognised(seen),
        **(by_group(found) if groups else {}),
    }


def _train(experiment: Experiment, runs: pathlib.Path) -> None:
    """Trains a run that others need, after what it starts from itself."""
    if experiment.start and not is_trained(experiment.start, runs):
        _train(experiment.start, runs)
    run_command(*commands(experiment, runs)[0])
    _check_finished(experiment, runs)


def commands(experiment: Experiment, runs: pathlib.Path) -> tuple[list[str], ...]:
    """train.py and eval.py with their flags; of an ensemble eval.py alone."""
    if experiment.members:
        workdirs = ",".join(str(runs / member.workdir) for member in experiment.members)
        together = [f"--config.eval.ensemble={workdirs}", f"--output={runs / experiment.output}"]
        return (["eval.py", *experiment.flags, *together],)
    given = [*experiment.flags, f"--workdir={runs / experiment.workdir}"]
    if experiment.start:
        given.append(f"--config.train.init_from={runs / experiment.start.workdir}")
    output = []
    if experiment.output != experiment.workdir:
        output.append(f"--output={runs / experiment.output}")
    return ["train.py", *given], ["eval.py", *given, *output]


def _check_finished(experiment: Experiment, runs: pathlib.Path) -> None:
    """train.py ends well also where it was asked to stop: its figures would not be the row's."""
    last, steps = _progress(experiment, runs)
    if last < steps:
        raise InputError(
            f"{runs / experiment.workdir}: training stopped at step {last} of {steps}; the same "
            "command goes on"
        )


def is_trained(experiment: Experiment, runs: pathlib.Path) -> bool:
    """Whether the experiment's workdir has its last step."""
    if not (ROOT / runs / experiment.workdir).exists():
        return False
    last, steps = _progress(experiment, runs)
    return last >= steps


def _progress(experiment: Experiment, runs: pathlib.Path) -> tuple[int, int]:
    """The step of the last checkpoint, and how many the run has."""
    from input_pipeline import load_dataset, steps_per_epoch  # loaded only where it is used

    config = read_config(experiment.config, experiment.dataset, experiment.flags[1:])
    epoch = 0
    if not config.train.steps:
        split = load_dataset(config.data).split("train")
        epoch = steps_per_epoch(split, config.data, config.train.batch_items)
    steps = count_steps(config.train, epoch)
    workdir = epath.Path(ROOT / runs / experiment.workdir)
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file it touches
    with Checkpoints(workdir) as saved:
        return saved.last_step or 0, steps


def _recognised(path: pathlib.Path) -> dict[str, Any]:
    """What was measured of a split's photos, where the matcher recognises something in them."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    return {"recognition": {name: found[name] for name in _RECOGNISED}}


def by_group(found: Mapping[str, Any]) -> dict[str, Any]:
    """Retrieval by view, scale and category of the query, where a results.json has it."""
    groups = {
        f"{kind}: {name}": {
            "title": f"{kind}: {name}",
            "queries": figures["queries"],
            **{k: figures[k] for k in _OF_GROUPS},
            "intervals_95": {k: figures["intervals_95"][k] for k in _OF_GROUPS},
        }
        for kind, of_kind in found.get("breakdowns", {}).items()
        for name, figures in of_kind.items()
        if figures["queries"]
    }
    return {"breakdowns": groups} if groups else {}


def _kept(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What tables and curves need of a protocol's figures."""
    names = ("title", "queries", "queries_without_match", "gallery", *_FIGURES)
    intervals = {name: figures["intervals_95"][name] for name in _FIGURES}
    return {name: figures[name] for name in names} | {"intervals_95": intervals}


def _sorted(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in sorted(fields)}


def _measures(field: str) -> bool:
    return field.startswith("eval.")


def _at(config: Any, field: str) -> Any:
    for part in field.split("."):
        config = config[part]
    return config


def _text(value: Any) -> str:
    """A value as a flag has it; lists are what JSON makes of tuples."""
    return repr(_tuples(value)) if isinstance(value, list | tuple) else str(value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def shown(words: Sequence[str]) -> str:
    """A command as a user types it."""
    return shlex.join(["python", *words])
