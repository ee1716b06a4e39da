"""Comparing runs by their files of ranks; tests/test_commands.py has the command."""

import contextlib
import json

import numpy as np
import pandas as pd
import pytest
from etils import epath

from grnet_jax import compare as module
from grnet_jax.compare import check_protocols, compare, format_comparison, main, read_run
from grnet_jax.errors import InputError
from grnet_jax.evaluation.reports import write_ranks

_QUERIES = 60


@pytest.fixture
def write_run(tmp_path, monkeypatch):
    """Writes a run's files, of queries of two per item with these ranks; returns its folder."""
    monkeypatch.setattr(module, "session", contextlib.nullcontext)

    def write(name, ranks, rows=None, **changed):
        rows = np.arange(len(ranks)) if rows is None else np.asarray(rows)
        ranks = [np.array([rank] if rank else [], np.int32) for rank in ranks]
        table = pd.DataFrame(
            {
                "photo_id": [f"photo {row}" for row in rows],
                "item_id": [f"item {row // 2}" for row in rows],
                "category": np.where(rows < 20, "dress", "top"),
                "easy": rows % 2 == 0,
                **dict.fromkeys(("hard_view", "hard_occlusion", "hard_cropping"), False),
                "rank": [ranks[0] if len(ranks) else 0 for ranks in ranks],
                "ranks": ranks,
            }
        )
        unmatched = int((table["rank"] == 0).sum())
        sizes = {"queries": len(rows) - unmatched, "queries_without_match": unmatched}
        results = {
            "dataset": "synthetic",
            "split": "test",
            "same_category": False,
            "gallery_fingerprint": "0123456789abcdef",
            "protocols": {"all": sizes | {"gallery": changed.pop("gallery", 50)}},
        }
        folder = epath.Path(tmp_path / name)
        folder.mkdir()
        write_ranks(folder, table)
        (folder / "results.json").write_text(json.dumps(results | changed))
        return str(folder)

    return write


def _ranks(seed):
    return np.random.default_rng(seed).integers(1, 40, _QUERIES)


def test_values_differences_and_verdicts(write_run):
    first, better = _ranks(0), np.where(np.arange(_QUERIES) < 40, 1, _ranks(0))
    few = np.where(np.arange(_QUERIES) < 10, 1, first)  # five items
    ranks = (first, better, few, _ranks(1))
    runs = [read_run(write_run(str(number), one)) for number, one in enumerate(ranks)]
    found = compare(runs, ["top1", "mrr"], "all")
    for run, one in enumerate(ranks):
        wanted = [np.mean(one == 1), np.mean(1 / one)]
        np.testing.assert_allclose(found.values[run], wanted, rtol=1e-6)
    low, high = found.differences[0, 0]
    assert 0 < low < np.mean(better == 1) - np.mean(first == 1) < high
    assert found.verdict(1, 0) == found.verdict(1, 1) == "higher"
    assert found.verdict(2, 1) == "no difference shown (fewer than 6 items differ)"
    assert found.verdict(3, 0) == "no difference shown"
    text = format_comparison(found, runs[0].protocol, "all", 3)
    assert f"{runs[3].name} against {runs[0].name}: no difference shown in top-1, MRR." in text
    higher, lower = (int(count.sum()) for count in (ranks[3] < first, ranks[3] > first))
    equal = _QUERIES - higher - lower
    assert f"higher for {higher} queries, lower for {lower}, equally for {equal}." in text
    back = compare(runs[1::-1], ["top1", "mrr"], "all")
    np.testing.assert_allclose(back.differences[0], -found.differences[0][:, ::-1])
    assert back.verdict(1, 0) == "lower"


def test_a_run_equals_itself(write_run):
    run = read_run(write_run("a", _ranks(0)))
    found = compare([run, run], ["map"], "all")
    assert found.names == [run.name, f"{run.name} (2)"]
    np.testing.assert_array_equal(found.differences, np.zeros((1, 1, 2)))
    assert found.verdict(1, 0) == "no difference shown"


def test_the_queries_that_differ_most_come_first(write_run):
    ranks = np.full((2, 6), 5)
    ranks[:, 1], ranks[:, 2], ranks[:, 3], ranks[:, 4] = (30, 20), (10, 1), (1, 40), (2, 3)
    runs = [read_run(write_run(name, one)) for name, one in zip("ab", ranks, strict=True)]
    text = format_comparison(compare(runs, ["map"], "all"), runs[0].protocol, "all", 2)
    listed = [line.split() for line in text.splitlines() if line.startswith("photo ")]
    assert [(words[1], *words[-2:]) for words in listed] == [
        ("2", "1", "10"),  # ten times as far up, though only by nine
        ("1", "20", "30"),
        ("3", "40", "1"),
        ("4", "3", "2"),
    ]


def test_queries_are_matched_by_photo_and_counted(write_run):
    one = read_run(write_run("one", [1, 2, 3, 4, 0], [0, 1, 2, 3, 4]))
    two = read_run(write_run("two", [0, 5, 6, 8], [4, 3, 2, 9]))
    found = compare([one, two], ["mrr"], "all")
    assert found.queries["photo_id"].tolist() == ["photo 2", "photo 3"]
    np.testing.assert_array_equal(found.ranks, [[3, 4], [6, 5]])
    assert found.notes == [
        f"{one.name}: 2 more queries, which not all runs have, are left out.",
        f"{two.name}: 1 more queries, which not all runs have, are left out.",
        "1 queries without a match in the gallery are left out.",
    ]


@pytest.mark.parametrize(("subset", "queries"), [("all", 60), ("easy", 30), ("category:dress", 20)])
def test_subsets_of_the_queries(write_run, subset, queries):
    runs = [read_run(write_run(name, _ranks(0))) for name in "ab"]
    assert len(compare(runs, ["map"], subset).queries) == queries


def test_a_comparison_is_written(write_run, tmp_path, capsys):
    folders = [write_run(str(seed), _ranks(seed)) for seed in range(2)]
    assert main([*folders, f"--output={tmp_path}/out", "--metric=top5,map"]) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {tmp_path}/out/comparison.csv" in printed
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    assert (content["queries"], content["items"]) == (60, 30)
    second = content["rows"][-1]
    assert (second["run"], second["metric"]) == (folders[1], "map")
    assert second["difference"] == pytest.approx(np.mean(1 / _ranks(1) - 1 / _ranks(0)), abs=1e-6)
    assert second["difference_interval_95"][0] < second["difference"]
    assert second["verdict"] in ("higher", "lower", "no difference shown")
    table = pd.read_csv(tmp_path / "out/comparison.csv")
    np.testing.assert_array_equal(table[f"rank in {folders[1]}"], _ranks(1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": "manifest"}, "dataset='manifest', but .* has 'synthetic'"),
        ({"split": "val"}, "split='val', but .* has 'test'"),
        ({"same_category": True, "gallery": None}, "same_category=True, but .* has False"),
        ({"gallery": 60}, "gallery=60, but .* has 50"),
        ({"gallery_fingerprint": "0"}, "gallery_fingerprint='0', but"),
    ],
)
def test_other_protocols_are_refused(write_run, changed, message):
    runs = [read_run(write_run("a", [1, 2])), read_run(write_run("b", [1, 2], **changed))]
    with pytest.raises(InputError, match=f"b: {message}"):
        check_protocols(runs)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric=top7"], "--metric=top7: expected some of top1, top5"),
        (["--subset=hardview"], "--subset=hardview: expected one of all, easy"),
        (["--subset=category:coat"], "hard_cropping, category:dress$"),
        (["--subset=hard_view"], "--subset=hard_view: runs have no query of it"),
        (["--top=-1"], "--top: expected 0 or more"),
    ],
)
def test_bad_options_are_named(write_run, flags, message):
    with pytest.raises(InputError, match=message):
        main([write_run("a", [1, 2]), write_run("b", [1, 3]), *flags])


def test_runs_without_a_common_query_are_refused(write_run):
    with pytest.raises(InputError, match=r"b: no query in common with .*a$"):
        main([write_run("a", [1, 2], [0, 1]), write_run("b", [1, 2], [2, 3])])
    with pytest.raises(InputError, match="one run; expected two or more"):
        main([write_run("c", [1, 2])])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "ranks.parquet",
            None,
            r"ranks.parquet: no such file; python eval.py --workdir=\S+ writes",
        ),
        ("ranks.parquet", b"PAR1 and no more", r"ranks.parquet: damaged \("),
        ("results.json", None, "results.json: no such file"),
        ("results.json", b"{", "results.json:1: not JSON"),
        ("results.json", b"[]", "results.json:1: expected what eval.py wrote"),
        ("results.json", b'{"protocols": {}}', r"older \(no field 'all'\): run eval.py again"),
    ],
)
def test_missing_and_damaged_files_are_named_in_one_line(write_run, file, content, message):
    path = epath.Path(write_run("a", [1, 2])) / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_run(str(path.parent))
    assert "\n" not in str(error.value)


def test_files_of_two_evaluations_are_refused(write_run):
    one, two = write_run("a", [1, 2]), write_run("b", [1, 2, 3])
    (epath.Path(two) / "ranks.parquet").copy(epath.Path(one) / "ranks.parquet", overwrite=True)
    with pytest.raises(InputError, match=r"ranks.parquet: 3 queries, but results.json has 2"):
        read_run(one)
