"""Which photos a command line means."""

import pytest
from etils import epath

from grnet_jax.errors import InputError
from grnet_jax.predict.__main__ import find_files


def test_folders_lists_and_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.jpg", "photos/a/c.jpg", "photos/.hidden.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "photos/a/above").symlink_to(tmp_path / "photos")  # would be walked for ever
    (tmp_path / "list.txt").write_bytes("\ufeffx.jpg\r\n\r\n  é.jpg \r\n".encode())
    assert find_files(["photos"]) == [epath.Path("photos/a/c.jpg"), epath.Path("photos/b.jpg")]
    assert find_files(["@list.txt", "y.jpg"]) == [
        *map(epath.Path, ("y.jpg", "x.jpg", "é.jpg")),
    ]
    (tmp_path / "list.txt").write_bytes("é.jpg".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.txt:1: not UTF-8"):
        find_files(["@list.txt"])
    with pytest.raises(InputError, match=r"^nowhere\.txt: no such file$"):
        find_files(["@nowhere.txt"])
    for name in ("a\0b.jpg", "https://host/a.jpg"):
        with pytest.raises(InputError, match="photo="):
            find_files([name])
