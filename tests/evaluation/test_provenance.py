"""Where results come from: the commit of a checkout, and what of the config matters."""

import subprocess

import jax
import pytest

from grnet_jax.config import parse_config
from grnet_jax.evaluation.provenance import config_digest, provenance, source_commit
from tests.small import small_config


def _config(**fields):
    return parse_config(small_config(**fields))


def test_the_commit_of_a_source_tree(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    code = tmp_path / "grnet_jax" / "__init__.py"
    code.parent.mkdir()
    code.write_text("")
    assert source_commit(tmp_path) == {}  # no checkout
    git("init", "--quiet")
    (tmp_path / "README.md").write_text("")
    git("add", "README.md")
    git("commit", "--quiet", "--message=one")
    assert source_commit(tmp_path) == {}  # another project's, where ours is installed
    git("add", ".")
    git("commit", "--quiet", "--message=two")
    commit = git("rev-parse", "--short", "HEAD")
    (tmp_path / "photos.csv").write_text("")
    assert source_commit(tmp_path) == {"commit": commit, "dirty": False}
    code.write_text("changed = True")
    assert source_commit(tmp_path) == {"commit": commit, "dirty": True}


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"dataset.dir": "/elsewhere", "name": "other", "eval.batch_size": 7}, True),
        ({"seed": 1}, False),
        ({"model.layers": 2}, False),
        ({"eval.search.flip_average": True}, False),
    ],
)
def test_the_digest_is_of_the_fields_that_matter(fields, same):
    assert (config_digest([_config()]) == config_digest([_config(**fields)])) is same


def test_what_results_say_of_their_origin():
    one, two = _config(seed=3), _config(seed=4)
    found = provenance([one])
    assert (found["seed"], found["config_digest"]) == (3, config_digest([one]))
    assert found["versions"]["jax"] == jax.__version__
    assert found["device"] == jax.devices()[0].device_kind
    both = provenance([one, two])
    assert both["seed"] == [3, 4]
    assert both["config_digest"] not in (found["config_digest"], config_digest([two, one]))
    assert "seed" not in provenance([parse_config(small_config("color_histogram"))])
