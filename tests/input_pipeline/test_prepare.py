"""The command that prepares data sets."""

import shlex

import pytest

from configs import grnet
from grnet_jax.config import Config
from input_pipeline import prepare
from input_pipeline.config import PrepareOptions
from tests.input_pipeline.conftest import write_manifest


def _table(lines):
    return [line.split() for line in lines if line.lstrip().startswith(("train ", "test "))]


def test_synthetic(tmp_path, three_garments, capsys):
    assert prepare.main(["--source=tiny", f"--dir={tmp_path}", "--items=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Photos, categories, items, customer and shop photos, pairs, queries and gallery.
    assert [row[:9] for row in _table(lines)] == [
        ["train", "8", "3", "4", "4", "4", "4", "4", "4"],
        ["test", "6", "2", "3", "3", "3", "3", "3", "3"],
    ]
    assert lines[-2] == f"Wrote {tmp_path}/synthetic/tiny/1.3.0"
    assert lines[-1] == (
        "Next: python train.py --config=configs/grnet.py:synthetic "
        f"--config.dataset.dir={tmp_path} --config.dataset.source=tiny"
    )
    # Again with other options: refused; with the same, or none: taken.
    assert prepare.main(["--source=tiny", f"--dir={tmp_path}", "--items=5"]) == 2
    assert "was prepared with --items=4, not 5" in capsys.readouterr().err
    assert prepare.main(["--source=tiny", f"--dir={tmp_path}"]) == 0


def test_the_next_command_is_one_of_train(tmp_path, capsys):
    path = write_manifest(tmp_path / "my photos", ["c.jpg,a,customer,train", "s.jpg,a,shop,train"])
    command = ["--dataset=manifest", f"--source={path}", f"--dir={tmp_path}"]
    assert prepare.main(command) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:4] == ["Next:", "python", "train.py", "--config=configs/grnet.py:manifest"]
    config = grnet.get_config("manifest").to_dict()
    for flag in words[4:]:
        field, value = flag.removeprefix("--config.dataset.").split("=")
        config["dataset"][field] = value
    dataset = Config(**config).dataset
    assert (dataset.name, dataset.source, dataset.dir) == ("manifest", str(path), str(tmp_path))


def test_mistakes_end_with_their_message(tmp_path, capsys):
    assert prepare.main(["--dataset=manifest", f"--dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: dataset.source is empty")
    assert prepare.main(["--items=-1", "--max_pixels=0", f"--dir={tmp_path}"]) == 2
    wrong = capsys.readouterr().err.splitlines()
    assert wrong == [
        "error: --items=-1: Input should be greater than or equal to 0",
        "error: --max_pixels=0: Input should be greater than or equal to 1",
    ]
    for wrong in ("--dataset=other", "--train_items=3", "--seed=x"):
        with pytest.raises(SystemExit):
            prepare.main([wrong])
    assert not list(tmp_path.iterdir())


def test_help_tells_of_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        prepare.main(["--help"])
    assert ended.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    for name, declared in PrepareOptions.model_fields.items():
        assert f"--{name} " in words
        assert " ".join(declared.description.split()) in words


def test_a_set_for_classification_tells_of_no_pairs(tmp_path, capsys):
    rows = ["a.jpg,train,hat", "b.jpg,train,shirt", "c.jpg,test,hat"]
    path = write_manifest(tmp_path, rows, header="image,split,category")
    assert prepare.main(["--dataset=manifest", f"--source={path}", f"--dir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.lstrip().startswith("split"))
    assert "pairs" not in header
    assert "queries" not in header
    assert [row[:3] for row in _table(lines)] == [["train", "2", "2"], ["test", "1", "1"]]
    assert not lines[-1].startswith("Next:")
