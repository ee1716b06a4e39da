"""The command that prepares data sets."""

import pytest

from input_pipeline import prepare
from tests.input_pipeline.conftest import write_manifest


def test_synthetic(tmp_path, three_garments, capsys):
    assert prepare.main(["--size=tiny", f"--dir={tmp_path}", "--train_items=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines if line.lstrip().startswith(("train ", "test "))]
    assert [row[:7] for row in table] == [
        ["train", "4", "4", "4", "4", "4", "4"],
        ["test", "3", "3", "3", "3", "3", "3"],
    ]
    assert lines[-2] == f"Wrote {tmp_path}/synthetic/tiny-4-seed0/1.0.0"
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
