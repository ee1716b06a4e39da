"""Measures a trained matcher: python eval.py --config=configs/grnet.py [--workdir=DIR]."""

from absl import app, flags

from grnet_jax import commands

_CONFIG = commands.define_config_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder or bucket of the trained run; runs/<config.name> if not given."
)
_OUTPUT = flags.DEFINE_string(
    "output", "", "Folder or bucket for results.json and results.html; the workdir if not given."
)


def main(argv: list[str]) -> None:
    """Parses the flags and evaluates."""
    commands.evaluate(argv, _CONFIG.value, _WORKDIR.value, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main, flags_parser=commands.parse_flags)
