"""The command that prepares data sets."""

import pytest

from input_pipeline import prepare
from tests.input_pipeline.conftest import write_manifest


def test_synthetic(tmp_path, three_garments, capsys):
    assert prepare.main(["--size=tiny", f"--dir={tmp_path}", "--train_items=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines if line.lstrip().startswith(("train ", "test "))]
    # Photos, categories, items, customer and shop photos, pairs, queries and gallery.
    assert [row[:9] for row in table] == [
        ["train", "8", "3", "4", "4", "4", "4", "4", "4"],
        ["test", "6", "2", "3", "3", "3", "3", "3", "3"],
    ]
    assert lines[-2] == f"Wrote {tmp_path}/synthetic/tiny-4-seed0/1.2.0"
    assert lines[-1] == (
        "Next: python train.py --config=configs/grnet.py:synthetic "
        f"--config.data.dir={tmp_path} --config.data.size=tiny --config.data.train_items=4"
    )


def test_manifest(tmp_path, capsys):
    path = write_manifest(tmp_path, ["c.jpg,a,customer,train", "s.jpg,a,shop,train"])
    command = ["--dataset=manifest", f"--manifest={path}", f"--dir={tmp_path}"]
    assert prepare.main(command) == 0
    assert f"--config.data.manifest={path}" in capsys.readouterr().out.splitlines()[-1]


def test_mistakes_end_with_their_message(tmp_path, capsys):
    assert prepare.main(["--dataset=manifest", f"--dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: config.data.manifest is empty")
    with pytest.raises(SystemExit):
        prepare.main(["--dataset=other"])


def test_a_set_for_classification_tells_of_no_pairs(tmp_path, capsys):
    rows = ["a.jpg,train,hat", "b.jpg,train,shirt", "c.jpg,test,hat"]
    path = write_manifest(tmp_path, rows, header="image,split,category")
    assert prepare.main(["--dataset=manifest", f"--manifest={path}", f"--dir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.lstrip().startswith("split"))
    assert "pairs" not in header
    assert "queries" not in header
    table = [line.split() for line in lines if line.lstrip().startswith(("train ", "test "))]
    assert [row[:3] for row in table] == [["train", "2", "2"], ["test", "1", "1"]]
    assert not lines[-1].startswith("Next:")
