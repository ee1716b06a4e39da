"""What `train.py` and `eval.py` do once their flags are read."""

import ast
import contextlib
import difflib
import pathlib
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import app, flags, logging
from etils import epath
from jax.sharding import Mesh
from ml_collections import config_flags

from grnet_jax.config import Config, fields_affecting, parse_config, to_config_dict
from grnet_jax.errors import InputError, program_name
from grnet_jax.evaluation import EvaluationResult, Evaluator, build_evaluators
from grnet_jax.evaluation.ensembles import EnsembleEvaluator, Member, ensemble_variables
from grnet_jax.evaluation.provenance import provenance
from grnet_jax.evaluation.recognition import recognizes_categories
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.models import has_feature_map
from grnet_jax.runtime import session
from grnet_jax.sharding import make_mesh
from grnet_jax.training import loop
from grnet_jax.training.build import Run, restore_matcher, restore_run
from grnet_jax.training.checkpoints import open_workdir, read_config
from grnet_jax.training.init_from import start_untrained
from grnet_jax.training.label_names import read_label_names
from grnet_jax.visualization.result_page import write_result_page
from input_pipeline import DatasetConfig, check_folder, load_dataset, to_path

_CONFIG_HELP = "FILE.py[:DATASET]; DATASET is synthetic, manifest, ..."
_FIELDS_HELP = (
    "Fields are set by --config.SECTION.FIELD=VALUE; `python -m grnet_jax.config` lists them."
)
_TRAIN_HELP = """Trains a system; the same command again continues it.
  python train.py --config=configs/NAME.py[:DATASET] [--workdir=DIR] [--config.SECTION.FIELD=VALUE]
{configs}

  --workdir=DIR                          checkpoints and logs; runs/NAME_DATASET if not given
  --config.dataset.source=PATH           photos.csv of your own (:manifest), or a data set's folder
  --config.train.steps=N                 length; --config.train.batch_size=N
  --config.model.backbone.pretrained=F   converted ImageNet weights (docs/backbones.md)
"""
_EVAL_HELP = """Measures trained runs, whose configs lie in their workdirs.
  python eval.py --workdir=DIR[,DIR...] [--output=DIR] [--config.SECTION.FIELD=VALUE]
  python eval.py --config=configs/color_histogram.py            nothing trained, and so no workdir
{runs}

  --workdir=A,B                          several as one, their embeddings side by side
  --output=DIR                           for results.json and results.html; the workdir if not given
  --config.eval.protocol.queries=N       as many queries, drawn, or a file that names them
  --config.eval.search.store=DIR         keeps features; after a kill the same command goes on
  --config.dataset.name=manifest --config.dataset.source=photos.csv           on your own photos
"""
_HELP = {"help", "helpshort", "h", "?"}
STOPPED = 75  # exit status of a training that a signal ended; sysexits' "temporary failure"

_PACKAGED_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def train_main() -> None:
    """Trains a matcher, as the command line says: train.py, grnet-train."""
    workdir = flags.DEFINE_string(
        "workdir", "", "Folder or bucket for checkpoints and logs; runs/<config.name> if not given."
    )
    app.run(
        lambda argv: train(argv, flags.FLAGS.config, workdir.value),
        argv=_with_packaged_config(sys.argv),
        flags_parser=parse_train_flags,
    )


def eval_main() -> None:
    """Measures trained matchers, as the command line says: eval.py, grnet-eval."""
    workdir = flags.DEFINE_string(
        "workdir", "", "Folder or bucket of the trained run; several, joined by commas, as one."
    )
    output = flags.DEFINE_string(
        "output", "", "Folder or bucket for what is written; the workdir if not given."
    )
    app.run(
        lambda argv: evaluate(argv, flags.FLAGS.config, workdir.value, output.value),
        argv=_with_packaged_config(sys.argv),
        flags_parser=parse_eval_flags,
    )


def _with_packaged_config(argv: Sequence[str]) -> list[str]:
    """Returns the words, with the package's own file for a configs/NAME.py that is not here."""
    words = list(argv)
    for number, word in enumerate(words):
        found = re.fullmatch(r"((?:--?config=)?)configs/(\w+\.py)(:\w*)?", word)
        if found and not pathlib.Path("configs", found[2]).is_file():
            packaged = _PACKAGED_CONFIGS / found[2]
            if packaged.is_file():
                words[number] = f"{found[1]}{packaged}{found[3] or ''}"
    return words


def parse_train_flags(argv: Sequence[str]) -> list[str]:
    """Parses train.py's command line, for `app.run`; a mistake ends it with its message alone."""
    with _one_message():
        _help_if_asked(argv, _TRAIN_HELP)
        if not _flag(argv, "config") and not _is_given(argv, {"helpfull", "helpxml"}):
            file = next((word for word in argv[1:] if re.match(r"[^-].*\.py\b", word)), "")
            meant = f"; did you mean --config={file}?" if file else ""
            _end(_TRAIN_HELP, f"--config is missing{meant}")
        _check_config_file(argv, _TRAIN_HELP)
        config_flags.DEFINE_config_file("config", None, _CONFIG_HELP, lock_config=True)
        return _parse(argv)


def parse_eval_flags(argv: Sequence[str]) -> list[str]:
    """Parses eval.py's command line; without --config its fields are those of the run."""
    with _one_message():
        _help_if_asked(argv, _EVAL_HELP)
        workdir, file = _flag(argv, "workdir").split(",")[0], _flag(argv, "config")
        if not workdir and not file and not _is_given(argv, {"helpfull", "helpxml"}):
            _end(_EVAL_HELP, "--workdir is missing")
        _check_config_file(argv, _EVAL_HELP.replace("{runs}", "{configs}"))
        if workdir and not file:
            config = to_config_dict(read_config(open_workdir(workdir)))
            config_flags.DEFINE_config_dict("config", config, lock_config=True, sys_argv=list(argv))
        else:
            config_flags.DEFINE_config_file("config", None, _CONFIG_HELP, lock_config=True)
        return _parse(argv)


def _help_if_asked(argv: Sequence[str], text: str) -> None:
    if _is_given(argv, _HELP):
        _end(text)


def _is_given(argv: Sequence[str], names: set[str]) -> bool:
    return any(word.startswith("-") and word.lstrip("-") in names for word in argv[1:])


def _check_config_file(argv: Sequence[str], text: str) -> None:
    """Ends the program where the config is no file, with those that there are."""
    file = _flag(argv, "config").partition(":")[0]
    if file and not pathlib.Path(file).is_file():
        names = {path.stem: path for path in _config_files()}
        close = difflib.get_close_matches(pathlib.PurePath(file).stem, names, 1)
        meant = f"; did you mean {names[close[0]]}?" if close else ""
        _end(text, f"--config={file}: no such file{meant}")


def _end(text: str, error: str = "") -> None:
    """Ends the program with one screen: the mistake if there is one, and the command's usage."""
    configs = "\n".join(
        f"  {path.stem:<22}{textwrap.shorten(docstring, 76, placeholder=' ...')}"
        for path, docstring in _config_files().items()
    )
    text = text.format(configs=configs, runs=_runs())
    for name in ("train", "eval"):
        text = text.replace(f"python {name}.py", program_name(name))
    text += "All fields: python -m grnet_jax.config. All flags: --helpfull."
    if error:
        print(f"error: {error}", file=sys.stderr)
    print(text, file=sys.stderr if error else sys.stdout)
    sys.exit(2 if error else 0)


def _runs() -> str:
    """Returns a line with the runs that there are."""
    found = sorted(str(path.parent) for path in pathlib.Path("runs").glob("*/config.json"))
    names = textwrap.shorten(", ".join(found), 300, placeholder=" ...")
    return f"Runs here: {names}" if found else "No runs are under runs/: train one first."


def _config_files() -> dict[pathlib.Path, str]:
    """Returns the files of configs/, here or the package's, and their docstrings' first lines."""
    found = {}
    here = pathlib.Path("configs")
    for path in sorted((here if here.is_dir() else _PACKAGED_CONFIGS).glob("*.py")):
        tree = ast.parse(path.read_text())
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in tree.body
        ):
            found[here / path.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _parse(argv: Sequence[str]) -> list[str]:
    rest = flags.FLAGS(argv)
    if flags.FLAGS.config is not None:  # a file that is missing is noticed only when it is read
        flags.FLAGS.config.to_dict()
    return rest


def _flag(argv: Sequence[str], name: str) -> str:
    """The value of --name=VALUE or --name VALUE, "" where it is not given."""
    words = list(argv)
    for number, word in enumerate(words):
        flag, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and flag == name:
            return value if equals else "".join(words[number + 1 : number + 2])
    return ""


@contextlib.contextmanager
def _one_message() -> Iterator[None]:
    """Ends the program with a mistake's message alone."""
    try:
        yield
    except Exception as error:  # a config file is a program, which raises what it likes
        logging.debug("Where it came from:", exc_info=True)
        print(f"error: {_last_reason(error)}", file=sys.stderr)
        # Of this package's own, it is about the workdir.
        print(_runs() if isinstance(error, InputError) else _FIELDS_HELP, file=sys.stderr)
        sys.exit(2)


def _last_reason(error: Exception) -> str:
    """What an error says at the end: ml_collections wraps a config file's whole traceback."""
    text = str(error)
    if isinstance(error, InputError):
        return text
    # Of a flag ml_collections names the unknown part alone, and where there is one a close name.
    names = set(re.findall(r"\w+", text))
    given = [word.partition("=")[0] for word in sys.argv if word.startswith("--config.")]
    unknown = [flag for flag in given if names & set(flag.split(".")[1:])]
    if isinstance(error, AttributeError | KeyError) and unknown:
        close = re.search(r'Did you mean "(\w+)', text)
        return f"{unknown[0]}: no such field" + (f"; did you mean {close[1]}?" if close else "")
    text = text.replace("\\n", "\n").replace("\\'", "'")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if "Error: " in line or line.startswith("[Errno"):
            return line.split("Error: ")[-1]
    return " ".join(lines)


def train(argv: Sequence[str], config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains, and says what was written and what to do next.

    Raises:
      SystemExit: `STOPPED`, where a signal ended it before its last step: the same command goes on.
    """
    with session(argv):
        parsed = parse_config(config)
        directory = workdir or f"runs/{parsed.name}"
        done = loop.train(parsed, directory).finished
        if jax.process_index() == 0:
            print(f"\nWrote {directory}/ (checkpoints, config.json, TensorBoard events)")
            given = [] if done else _without_workdir(sys.argv[1:])
            words = shlex.join([*given, f"--workdir={directory}"])
            print(f"Next: {program_name('eval' if done else 'train')} {words}")
    if not done:
        sys.exit(STOPPED)


class _Evaluated(NamedTuple):
    """What is measured: a run, a matcher that needs no training, or an ensemble."""

    config: Config
    step: int
    evaluators: Mapping[str, Evaluator]
    variables: Any
    explain: str = ""  # the command that explains its scores
    trained: Sequence[Config] = ()  # the configs of an ensemble's members


def evaluate(
    argv: Sequence[str], config: ml_collections.ConfigDict, workdir: str, output: str
) -> None:
    """Measures the best checkpoint and writes its results.

    A run may be measured on another data set than its own: what training fixed is the run's.
    """
    with session(argv):
        given, mesh = parse_config(config), make_mesh()
        names = [name for name in workdir.split(",") if name] or [f"runs/{given.name}"]
        joined = _ensemble_name(given, names)
        to = to_path(output or (f"runs/{joined}" if len(names) > 1 else names[0]), "--output")
        scratch = str(to / "features-tmp")
        if len(names) > 1:
            measured = _open_ensemble(names, given, mesh, scratch)
        else:
            measured = _open_run(names[0], given, mesh, output, scratch)
        if jax.process_index() == 0:
            check_folder(to)
        written: list[str] = []
        for evaluator in measured.evaluators.values():
            written += _report(evaluator.run(measured.variables, measured.step), measured, to)
        if jax.process_index() == 0:
            print("\n".join(f"Wrote {path}" for path in written))
            if pages := [path for path in written if path.endswith(".html")]:
                print(f"Next: open {pages[0]} in a browser")


def _ensemble_name(given: Config, names: Sequence[str]) -> str:
    return f"{given.name}_ensemble_of_{len(names)}"


def _open_run(name: str, given: Config, mesh: Mesh, output: str, scratch: str) -> _Evaluated:
    """A run's best checkpoint, or a matcher that needs no training."""
    if given.loss is None:
        run, state = start_untrained(given, mesh)
        config = given
    else:
        run, state = restore_run(name, mesh)
        config = _as_trained(given, run.config)
    recognizes = given.loss is not None and (
        run.config.model.name == "detector" or recognizes_categories(run.matcher, run.config)
    )
    learned = read_label_names(open_workdir(name)) if recognizes else None
    dataset, split = load_dataset(config.dataset), config.eval.protocol.split
    evaluators = build_evaluators(
        config, run.matcher, mesh, dataset, split, learned=learned, scratch=scratch
    )
    explain = _explain_command(run, name, config.dataset, output)
    return _Evaluated(config, int(state.step), evaluators, state.variables, explain)


def _open_ensemble(names: Sequence[str], given: Config, mesh: Mesh, scratch: str) -> _Evaluated:
    """Several runs' best checkpoints as one."""
    members, steps = [], []
    for name in names:
        run, state = restore_matcher(name, mesh)
        members.append(Member(name, run.matcher, run.config, state.variables))
        steps.append(int(state.step))
    _check_model(given, members[0].config)
    evaluator = EnsembleEvaluator(given, members, mesh, load_dataset(given.dataset), scratch)
    config = given.model_copy(update={"name": _ensemble_name(given, names)})
    trained = [member.config.model_copy(update={"eval": given.eval}) for member in members]
    return _Evaluated(
        config,
        max(steps),
        {"retrieval": evaluator},
        ensemble_variables(members),
        trained=trained,
    )


def _check_model(given: Config, trained: Config) -> None:
    """Raises InputError, naming a field of the model that is not the run's."""
    ours, theirs = (fields_affecting(one.model, "parameters") for one in (given, trained))
    for field in sorted(ours.keys() | theirs.keys()):
        if ours.get(field) != theirs.get(field):
            raise InputError(
                f"config.model.{field}={ours.get(field, 'absent')!r}: the run was trained with "
                f"{theirs.get(field, 'absent')!r}"
            )


def _as_trained(given: Config, trained: Config) -> Config:
    """The run's config with the data set, protocol and search that are asked for.

    Raises:
      InputError: naming a field of the model that is not the run's.
    """
    _check_model(given, trained)
    moved = {name: getattr(given.image, name) for name in ("detections", "keypoints")}
    for field, value in fields_affecting(given.image, "features").items():
        if value != getattr(trained.image, field):
            logging.info("image.%s=%s, as in training", field, getattr(trained.image, field))
    return trained.model_copy(
        update={
            "dataset": given.dataset,
            "eval": given.eval,
            "image": trained.image.model_copy(update=moved),
        }
    )


def _report(result: EvaluationResult, measured: _Evaluated, to: epath.Path) -> list[str]:
    """Prints and writes what an evaluator measured; returns the paths."""
    if jax.process_index() > 0:
        return []
    config, step = measured.config, measured.step
    print(f"\n{config.name}, checkpoint of step {step}, {config.eval.protocol.split} split\n")
    print(result.format())
    origin = provenance(measured.trained or [config])
    written = result.write(to, config.name, step, origin)
    if isinstance(result, RetrievalResult):
        written.append(write_result_page(to, result, config.name, step, measured.explain))
    return written


def _explain_command(run: Run, directory: str, dataset: DatasetConfig, output: str) -> str:
    """What explains this run's scores on a data set; "" where it cannot."""
    own = run.config.dataset
    if not has_feature_map(run.matcher) or dataset.name != own.name:
        return ""
    command = ["python", "-m", "grnet_jax.visualization", f"--workdir={directory}"]
    for field in ("source", "dir"):
        if (value := getattr(dataset, field)) != getattr(own, field):
            command.append(f"--config.dataset.{field}={value}")
    if output:
        command.append(f"--output={output}")
    return shlex.join(command)


def _without_workdir(words: Sequence[str]) -> list[str]:
    """The flags of this run but --workdir, to repeat them in a suggested command."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.lstrip("-").startswith("workdir"):
            skip = "=" not in word
        else:
            kept.append(word)
    return kept
