"""Writes files of records with Apache Beam: by several processes, or on many machines."""

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from input_pipeline.errors import DatasetError, InputError

_JOBS = "jobs"  # folder in the unfinished one

Write = Callable[[epath.Path], None]


def beam_flags(runner: str, options: str) -> Any:
    """Parses Beam's options; None without a runner.

    Args:
      runner: a name that Beam knows, as DirectRunner, or "".
      options: Beam's flags, joined by commas, with or without their dashes.

    Raises:
      DatasetError: Beam is not installed, or knows no such runner or flag.
    """
    if not runner:
        if options:
            raise DatasetError(
                f"--beam_options={options!r}: needs a runner: --beam_runner=DirectRunner, for one"
            )
        return None
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise DatasetError(
            f"--beam_runner={runner!r}: needs apache-beam: pip install 'grnet_jax[beam]' ({error})"
        ) from error
    return _parse_options(runner, options)


def write_with_beam(
    files: Mapping[epath.Path, Write], folder: epath.Path, runner: str, flags: Any
) -> None:
    """Writes each file by calling its function, pickled, in a Beam worker.

    Each pickled function lies in a job file; the pipeline holds the job files' names alone, so
    that it stays small enough for services that limit its size.

    Args:
      files: the function that writes each file.
      folder: for the job files while Beam runs; the workers have to see it.
      runner: a name that Beam knows.
      flags: see `beam_flags`.

    Raises:
      DatasetError: a worker's error about its input.
    """
    import apache_beam as beam

    jobs = folder / _JOBS
    jobs.mkdir(exist_ok=True)
    names = []
    for number, (path, write) in enumerate(files.items()):
        job = jobs / f"{number}.pickle"
        job.write_bytes(pickle.dumps((path, write)))
        names.append(str(job))
    print(f"Writing {len(names):,} files of records with Beam ({runner})", flush=True)
    with beam.Pipeline(runner, flags) as pipeline:
        # Reshuffled, for what follows a Create directly is run by one worker.
        shuffled = pipeline | "Files" >> beam.Create(names) | beam.Reshuffle()
        _ = shuffled | "Write" >> beam.Map(_run_job)
    if errors := [path.read_text() for path in sorted(jobs.glob("*.error"))]:
        raise DatasetError("\n".join(errors))
    jobs.rmtree()


def _run_job(name: str) -> None:
    job = epath.Path(name)
    path, write = pickle.loads(job.read_bytes())
    try:
        write(path)
    except InputError as error:  # Beam would hide the message in its traceback
        (job.parent / f"{job.name}.error").write_text(str(error))


def _parse_options(runner: str, options: str) -> Any:
    """Parses Beam's PipelineOptions."""
    from apache_beam import runners
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.portable_runner import PortableRunner

    try:
        known_runner = runners.create_runner(runner)
    except (ImportError, ValueError) as error:
        raise DatasetError(f"--beam_runner={runner!r}: {error}") from error
    flags = [f"--{flag.strip().lstrip('-')}" for flag in options.split(",") if flag.strip()]
    parsed = PipelineOptions(flags)
    try:
        known = parsed.get_all_options()
        everything = parsed.get_all_options(retain_unknown_options=True)
    except SystemExit as error:  # argparse has printed why
        raise DatasetError(f"--beam_options={options!r}: Beam refuses it") from error
    unknown = sorted(everything.keys() - known.keys())
    if unknown and not isinstance(known_runner, PortableRunner):  # whose servers may know more
        raise DatasetError(f"--beam_options={options!r}: Beam knows no flag --{unknown[0]}")
    return parsed
