"""train.py and eval.py as a command line runs them, in this process: most of theirs is starting."""

import warnings

from absl import app, flags

from grnet_jax import commands


def run_script(monkeypatch, name, arguments):
    """Runs train.py or eval.py with flags of its own; raises SystemExit where they end so."""
    known = set(flags.FLAGS)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    monkeypatch.setattr(app, "run", lambda main, argv, flags_parser: main(flags_parser(argv)))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the load_module")  # ml_collections reads configs so
            return getattr(commands, f"{name.removesuffix('.py')}_main")()
    finally:
        for flag in set(flags.FLAGS) - known:  # others are of modules that were imported meanwhile
            if flag in ("workdir", "output") or flag.partition(".")[0] == "config":
                delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()
