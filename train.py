"""Trains a matcher: python train.py --config=configs/grnet.py [--workdir=DIR]."""

from absl import app, flags

from grnet_jax import commands

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder or bucket for checkpoints and logs; runs/<config.name> if not given."
)


def main(argv: list[str]) -> None:
    """Trains with the flags."""
    commands.train(argv, flags.FLAGS.config, _WORKDIR.value)


if __name__ == "__main__":
    app.run(main, flags_parser=commands.parse_train_flags)
