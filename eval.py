"""Measures trained matchers: python eval.py --workdir=DIR[,DIR...] [--output=DIR].

The config lies in the workdir; several are evaluated as one, their embeddings side by side. A
matcher without parameters has no workdir: python eval.py --config=configs/color_histogram.py.
Writes results.json, ranks.parquet (every query's) and results.html; of a detector detection.json.
"""

from absl import app, flags

from grnet_jax import commands

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder or bucket of the trained run; several, joined by commas, as one."
)
_OUTPUT = flags.DEFINE_string(
    "output", "", "Folder or bucket for what is written; the workdir if not given."
)


def main(argv: list[str]) -> None:
    """Evaluates with the flags."""
    commands.evaluate(argv, flags.FLAGS.config, _WORKDIR.value, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main, flags_parser=commands.parse_eval_flags)
