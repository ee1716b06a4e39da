"""Exports a trained run as files that need JAX alone, for any number of photos.

    python -m grnet_jax.export --workdir=runs/demo --output=exported/demo
    python -m grnet_jax.export --workdir=runs/demo --output=exported/demo --platforms=cpu,cuda,tpu

`grnet_jax.load_exported` reads them.
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from grnet_jax.errors import ArgumentParser
from grnet_jax.export.writing import PLATFORMS, export_matcher
from grnet_jax.runtime import session
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import restore_matcher
from input_pipeline import check_folder, to_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    with session():
        run, state = restore_matcher(options.workdir, make_mesh())
        if jax.process_index() == 0:
            output = to_path(options.output, "--output")
            check_folder(output)
            platforms = options.platforms.split(",")
            written = export_matcher(
                run.config, state.variables, int(state.step), output, platforms
            )
            print("\n".join(f"Wrote {path}" for path in written))
            copied = " of a copy on a disk" if "://" in str(output) else ""
            print(f'Next: grnet_jax.load_exported("{output}"){copied} in Python')
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--workdir", required=True, help="folder or bucket of the trained run")
    add("--output", required=True, help="folder or bucket to write to")
    add("--platforms", default="cpu,cuda,tpu", help=f"some of {','.join(PLATFORMS)} (cpu,cuda,tpu)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
