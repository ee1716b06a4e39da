"""Paths, and files that are written whole or not at all."""

import os

import pytest
from etils import epath

from input_pipeline import InputError, check_folder, to_path, write_file


@pytest.mark.parametrize("text", ["a\0b", "https://host/x", "file://x", "ftp://x", "\udcff"])
def test_what_is_no_path(text):
    with pytest.raises(InputError, match="--output="):
        to_path(text, "--output")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "results" / "results.json")
    write_file(path, "old")
    assert path.read_text() == "old"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", full)
        with pytest.raises(InputError, match=r"results\.json: cannot be written: No space left"):
            write_file(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["results.json"]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        check_folder(epath.Path(tmp_path / "file" / "folder"))
    check_folder(epath.Path(tmp_path / "new"))
    assert not os.listdir(tmp_path / "new")
