"""What `train.py` and `eval.py` do once their flags are read."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from grnet_jax.errors import InputError
from grnet_jax.visualization.result_page import write_result_page
from grnet_jax.models import has_feature_map
from grnet_jax.retrieval.ensembles import (
    EnsembleEvaluator,
    Member,
    check_members,
    ensemble_variables,
    member_data,
)
from grnet_jax.retrieval.evaluation import Evaluation, Evaluator
from grnet_jax.retrieval.recognition import (
    RecognitionEvaluator,
    format_recognition,
    recognises_categories,
    write_recognition,
)
from grnet_jax.retrieval.report import format_breakdowns, format_table, results_dict, write_results
from grnet_jax.retrieval.tasks import configured_task, has_both_domains, see_as_trained
from grnet_jax.runtime import session
from grnet_jax.sharding import make_mesh
from grnet_jax.training import checkpoints, loop
from grnet_jax.training.setup import Run, build_run, restore_run
from grnet_jax.visualization.result_page import write_result_page


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

        if config.eval.ensemble:
            _evaluate_ensemble(config, workdir, output)
            return
        directory = epath.Path(workdir or f"runs/{config.name}").expanduser()
        run = build_run(config, make_mesh())
        config = run.config
        checkpoints.check_same_config(directory, config.to_dict(), part="model")
        if run.has_parameters:
            run, state = restore_run(directory, run.mesh)
            see_as_trained(config.data, run.config.data)
        else:
            state = run.create_state()
        dataset = load_dataset(config.data)
        step = int(state.step)
        to = epath.Path(output).expanduser() if output else directory
        recognises = _recognises(run, config)
        written: list[str] = []
        # Photos of one domain alone cannot be ranked, but what they show can be recognised.
        if not recognises or has_both_domains(dataset.split(config.eval.split)):
            task = configured_task(dataset, config)
            evaluation = Evaluator(run.matcher, config, run.mesh).evaluate(
                state.variables, task, store=config.eval.store, step=step
            )
            if jax.process_index() == 0:
                print(f"\n{config.name}, checkpoint of step {step}, {task.split} split\n")
                explain = _explain_command(run, config, directory, to)
                written += _write(evaluation, config.name, step, to, explain)
        if recognises:
            written = _recognise(run, config, dataset, state.variables, step, to) + written
        if jax.process_index() == 0:
            _tell(written)


def _evaluate_ensemble(config: Any, workdir: str, output: str) -> None:
    """Measures the runs that eval.ensemble names as one, on the data and protocol of the config."""
    from input_pipeline import load_dataset  # the pipeline is loaded only where it is used

    if workdir:
        raise InputError(
            f"--workdir={workdir}: eval.ensemble names the runs; --output is the results' folder"
        )
    mesh = make_mesh()
    config = build_run(config, mesh).config
    members, steps = [], []
    for name in config.eval.ensemble.split(","):
        run, state = restore_run(name, mesh)
        members.append(Member(name, run.matcher, run.config, state.variables))
        steps.append(int(state.step))
    check_members(members)
    views = [member_data(config.data, member.config.data) for member in members]
    datasets = [load_dataset(data) for data in views]
    config.data = views[0]
    others = list(zip(datasets[1:], views[1:], strict=True))
    task = configured_task(datasets[0], config, also_cut=others)
    evaluation = EnsembleEvaluator(members, config, datasets, mesh).evaluate(
        ensemble_variables(members), task, store=config.eval.store, step=max(steps)
    )
    title = f"{config.name}_ensemble_of_{len(members)}"
    to = epath.Path(output or f"runs/{title}").expanduser()
    if jax.process_index() == 0:
        print(f"\n{title}, checkpoints of steps {steps}, {task.split} split\n")
        _tell(_write(evaluation, title, max(steps), to))


def _write(
    evaluation: Evaluation, model: str, step: int, to: epath.Path, explain: str = ""
) -> list[str]:
    """Prints the figures and writes results.json and results.html."""
    print(format_table(evaluation))
    results = results_dict(evaluation, model, step)
    print(f"\n{format_breakdowns(results)}")
    return [
        write_results(to, results),
        write_result_page(to, evaluation, model, step, explain),
    ]


def _tell(written: Sequence[str]) -> None:
    """Says what was written, and what to look at."""
    print("\n".join(f"Wrote {path}" for path in written))
    if written[-1].endswith(".html"):
        print(f"Next: open {written[-1]} in a browser")


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

    Nothing where the matcher recognises nothing, or no categories, or on another
    data set than its own: its categories are not those that were learned.
    """
    if not recognises_categories(run.matcher, run.config):
        return False
    if not _on_own_data(run, config):
        if jax.process_index() == 0:
            said = "their numbers are those of the run's own data set"
            print(f"\nCategories are not measured: {said}.")
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
    command = ["python", "-m", "grnet_jax.visualization", f"--workdir={directory}"]
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
