"""What `train.py` and `eval.py` do once their flags are read."""

import contextlib
import logging as python_logging
import os
import pathlib
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from grnet_jax.errors import InputError
from grnet_jax.figures.result_page import write_result_page
from grnet_jax.mesh import initialise_distributed, make_mesh
from grnet_jax.models import has_feature_map, has_predictions
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.recognition import (
    RecognitionEvaluator,
    format_recognition,
    write_recognition,
)
from grnet_jax.retrieval.report import format_table, write_results
from grnet_jax.retrieval.tasks import configured_task, has_both_domains
from grnet_jax.training import checkpoints, loop
from grnet_jax.training.setup import Run, build_run, restore_run


def define_config_flag() -> flags.FlagHolder:
    """The flag --config=FILE.py[:DATASET], each field of which is a flag of its own."""
    return config_flags.DEFINE_config_file(
        "config",
        "configs/grnet.py",
        "FILE.py[:DATASET]; DATASET is synthetic, manifest, ... Fields are set by "
        "--config.FIELD=VALUE.",
        lock_config=True,
    )


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line, for `app.run`; a mistake in it ends with its message alone."""
    try:
        rest = flags.FLAGS(argv)
        _ = flags.FLAGS.config  # a file that is missing is noticed only when it is asked for
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        logging.debug("Where it came from:", exc_info=True)
        print(f"error: {_last_reason(error)}", file=sys.stderr)
        print(
            "Fields are set by --config.FIELD=VALUE; --helpfull lists the flags.", file=sys.stderr
        )
        sys.exit(2)


def _last_reason(error: Exception) -> str:
    """What an error says at the end: ml_collections wraps a config file's whole traceback."""
    text = str(error).replace("\\n", "\n").replace("\\'", "'")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if "Error: " in line or line.startswith("[Errno"):
            return line.split("Error: ")[-1]
    return " ".join(lines)


def train(argv: Sequence[str], config: Any, workdir: str) -> None:
    """Trains, and says what was written and what to do next."""
    with session(argv):
        directory = workdir or f"runs/{config.name}"
        done = loop.train(config, directory).finished
        if jax.process_index() == 0:
            print(f"\nWrote {directory}/ (checkpoints, config.json, TensorBoard events)")
            command = "eval.py" if done else "train.py"
            print(f"Next: python {command} {_config_flags(directory)}")


def evaluate(argv: Sequence[str], config: Any, workdir: str, output: str) -> None:
    """Measures the best checkpoint and writes results.json and results.html.

    The run may have been trained on another data set: only its model has to be the config's.
    """
    with session(argv):
        from input_pipeline import load_dataset  # the pipeline is loaded only where it is used

        directory = epath.Path(workdir or f"runs/{config.name}").expanduser()
        run = build_run(config, make_mesh())
        config = run.config
        checkpoints.check_same_config(directory, config.to_dict(), part="model")
        if run.has_parameters:
            run, state = restore_run(directory, run.mesh)
            # The model has to see photos as it did in training.
            for field in ("image_size", "crop", "shop_crop", "interpolation", "center_share"):
                trained = run.config.data[field]
                if config.data[field] != trained:
                    logging.info("data.%s=%s, as the model was trained", field, trained)
                config.data[field] = trained
        else:
            state = run.create_state()
        dataset = load_dataset(config.data)
        step = int(state.step)
        to = epath.Path(output).expanduser() if output else directory
        recognises = _recognises(run, config)
        written: list[str] = []
        # Photos of one domain alone cannot be ranked, but what they show can be recognised.
        if not recognises or has_both_domains(dataset.split(config.eval.split)):
            explain = _explain_command(run, config, directory, to)
            written += _rank(run, config, dataset, state.variables, step, to, explain)
        if recognises:
            written = _recognise(run, config, dataset, state.variables, step, to) + written
        if jax.process_index() > 0:
            return
        print("\n".join(f"Wrote {path}" for path in written))
        if written[-1].endswith(".html"):
            print(f"Next: open {written[-1]} in a browser")


def _rank(
    run: Run, config: Any, dataset: Any, variables: Any, step: int, to: epath.Path, explain: str
) -> list[str]:
    """Ranks the split's queries; what the first process wrote. `explain` explains the scores."""
    task = configured_task(dataset, config)
    evaluation = Evaluator(run.matcher, config, run.mesh).evaluate(
        variables, task, store=config.eval.store, step=step
    )
    if jax.process_index() > 0:
        return []
    print(f"\n{config.name}, checkpoint of step {step}, {task.split} split\n")
    print(format_table(evaluation))
    return [
        write_results(to, evaluation, config.name, step),
        write_result_page(to, evaluation, config.name, step, explain),
    ]


def _recognise(
    run: Run, config: Any, dataset: Any, variables: Any, step: int, to: epath.Path
) -> list[str]:
    """Measures what is recognised in the split's photos; what the first process wrote."""
    evaluator = RecognitionEvaluator(run.matcher, config, run.mesh)
    found = evaluator.evaluate(variables, dataset, config.eval.split)
    if jax.process_index() > 0:
        return []
    print(f"\n{format_recognition(found)}")
    return [write_recognition(to, found, config.name, step)]


def _recognises(run: Run, config: Any) -> bool:
    """Whether there is anything to measure of what is recognised.

    Nothing where the matcher recognises nothing, or on another data set than its own: its
    categories are not those that were learned.
    """
    if not has_predictions(run.matcher):
        return False
    if not _on_own_data(run, config):
        print("\nCategories are not measured: their numbers are those of the run's own data set.")
        return False
    return True


def _on_own_data(run: Run, config: Any) -> bool:
    """Whether evaluation is on the data set that the run was trained on."""
    fields = ("name", "size", "manifest", "source")
    return all(run.config.data[field] == config.data[field] for field in fields)


def _explain_command(run: Run, config: Any, directory: epath.Path, output: epath.Path) -> str:
    """What explains this run's scores; "" where it cannot, or on another data set than its own."""
    if not has_feature_map(run.matcher) or not _on_own_data(run, config):
        return ""
    command = ["python", "-m", "grnet_jax.figures", f"--workdir={directory}"]
    if output != directory:
        command.append(f"--output={output}")
    return shlex.join(command)


def _config_flags(directory: Any) -> str:
    """The flags of this run, to repeat them in a suggested command."""
    given = []
    words = iter(sys.argv[1:])
    for word in words:
        if word.lstrip("-").startswith("workdir"):
            if "=" not in word:
                next(words, None)
        else:
            given.append(word)
    return shlex.join([*given, f"--workdir={directory}"])


def _worth_reading(record: python_logging.LogRecord) -> bool:
    """Whether a line is for the user: the libraries below tell of every file they touch."""
    packages = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[1] / "input_pipeline"]
    ours = any(pathlib.Path(record.pathname).is_relative_to(package) for package in packages)
    metrics = record.filename in ("logging_writer.py", "parameter_overview.py")
    return ours or metrics or record.levelno >= python_logging.WARNING


@contextlib.contextmanager
def session(argv: Sequence[str] = ()) -> Iterator[None]:
    """Logging and devices for a command; a user's mistake ends it with its message alone."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_worth_reading)
    logging.get_absl_handler().setFormatter(
        python_logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    )
    # TensorFlow only reads photos here: its start-up lines tell nothing about the run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; options are --NAME=VALUE")
        initialise_distributed()
        yield
    except (InputError, loop.NonFiniteLossError) as error:
        logging.debug("Where it came from:", exc_info=True)
        print(f"\nerror: {error}", file=sys.stderr)
        _leave(2)
    except Exception:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        print(
            f"\nerror: process {jax.process_index()} of {jax.process_count()} cannot go on; where "
            "the error above speaks of connections, peers or barriers, another process was lost. "
            "All processes end. The same command, started on all of them again, continues from the "
            "last checkpoint.",
            file=sys.stderr,
        )
        _leave(1)


def _leave(code: int) -> None:
    """Ends with that exit code; in a job of several processes at once, without waiting for them."""
    if jax.process_count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
