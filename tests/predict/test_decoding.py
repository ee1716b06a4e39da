"""What predictions say of a photo, by names and in its pixels."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from grnet_jax.errors import InputError
from grnet_jax.models import Predictions
from grnet_jax.predict.__main__ import find_files, main
from grnet_jax.predict.decoding import decode, format_prediction
from grnet_jax.training.checkpoints import CheckpointError
from grnet_jax.training.label_names import LabelNames, read_label_names

_LABELS = LabelNames(("dress", "skirt"), ("striped", "long", "dotted"), landmarks=True)


def _predictions():
    visibility = np.full((2, 8, 4), -5.0)
    visibility[:, :, 3] = 5  # absent
    visibility[1, 0] = [2.0, 0, 0, 0]
    visibility[1, 3] = [0, 0, 9.0, 0]
    points = np.full((2, 8, 2), 0.5, np.float32)
    points[1, 0], points[1, 3] = (0.25, 0.5), (1.5, 0.1)
    return Predictions(
        category=np.array([[0.0, 0, 0], [0, np.log(3), 7]]),  # a logit more than labels
        attributes=np.array([[0.0, 0, 0], [-1, 2, 0]]),
        landmarks=points,
        visibility=visibility,
    )


def test_names_and_pixels_of_the_whole_photo():
    found = decode(_predictions(), 1, _LABELS, (10, 20, 50, 120), top=2)
    assert [name for name, _ in found.categories] == ["skirt", "dress"]
    np.testing.assert_allclose(found.categories[0][1] / found.categories[1][1], 3)
    assert [name for name, _ in found.attributes] == ["long", "dotted"]
    np.testing.assert_allclose([s for _, s in found.attributes], [1 / (1 + np.exp(-2)), 0.5])
    first, second = found.landmarks
    assert (first.name, first.visibility) == ("left_collar", "visible")
    np.testing.assert_allclose((first.x, first.y), (10 + 0.25 * 40 - 0.5, 20 + 50 - 0.5))
    np.testing.assert_allclose(first.share, np.exp(2) / (np.exp(2) + 3))
    assert (second.name, second.visibility) == ("right_sleeve", "truncated")
    np.testing.assert_allclose((second.x, second.y), (10 + 60 - 0.5, 20 + 10 - 0.5), rtol=1e-6)
    text = format_prediction("a.jpg", found).splitlines()
    assert text[0] == "a.jpg"
    assert text[3].split() == ["landmarks", "1", "left_collar", "19.5", "69.5", "visible", "71%"]


def test_a_matcher_of_categories_alone_says_no_more():
    found = decode(Predictions(np.zeros((1, 2))), 0, _LABELS, (0, 0, 9, 9), top=5)
    assert found.categories == [("dress", 0.5), ("skirt", 0.5)]
    assert found.attributes == found.landmarks == []
    assert format_prediction("a", found) == "a\n  category    dress 50%, skirt 50%"


def test_landmarks_that_were_not_learned_are_left_out():
    labels = dataclasses.replace(_LABELS, landmarks=False)
    found = decode(_predictions(), 1, labels, (10, 20, 50, 120), top=2)
    assert not found.landmarks
    assert found.attributes


def test_missing_and_wrong_labels_are_named(tmp_path):
    folder = epath.Path(tmp_path)
    with pytest.raises(CheckpointError, match=r"labels\.json is missing"):
        read_label_names(folder)
    for text, message in (
        ("[]", r"labels\.json:1: expected the labels of a run, got \[\]"),
        ('{"categories": "dress"}', r"labels\.json: categories: .* tuple"),
        ('{"categories": [], "attributes": []}', r"labels\.json: landmarks: Field required"),
        ('{"categories": [', r"labels\.json:1: not JSON"),
    ):
        (folder / "labels.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_label_names(folder)


def test_folders_stand_for_their_files(tmp_path):
    for name in ("b.jpg", "a/c.png", "a/.hidden", "z/.only"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_files([str(tmp_path), str(tmp_path / "b.jpg"), "no/where.jpg"])
    assert [path.name for path in found] == ["c.png", "b.jpg", "b.jpg", "where.jpg"]
    with pytest.raises(InputError, match=r"z: a folder without files"):
        find_files([str(tmp_path / "z")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jpg", "b.jpg", "--box=1,2,3,4"], "--box: is of one photo, but 2 were given"),
        (["a.jpg", "--top=0"], "--top: expected 1 or more"),
        (["a.jpg"], "labels.json is missing"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, f"--workdir={tmp_path}"])
    assert message in capsys.readouterr().err
