"""The comparison of all systems: an ensemble costs what its members do."""

import re

from benchmarks import own_categories, own_photos, systems
from benchmarks.reproduce.papers import find_paper

_TABLE = find_paper("grnet").table("systems")


def _cost(label, **costs):
    same = {"parameters": 1000, "numbers": 128, "step_ms": 100.0, "step_mb": 50.0}
    return {"row": label, "machine": "one", **same, "embed_ms": 0.5, "score_us": 0.1, **costs}


def test_costs_are_multiples_of_the_baselines_and_members_add_up(monkeypatch, tmp_path):
    (tmp_path / "reproduce_grnet_synthetic.json").write_text('{"rows": []}')
    monkeypatch.setattr(systems, "RESULTS", tmp_path)
    members = {run.label for row in _TABLE.rows.values() for run in _TABLE.members(row) or (row,)}
    rows = [_cost(label) for label in members - {"triplets"}]
    rows.append(_cost("triplets", step_ms=300.0, step_mb=75.0, numbers=64))
    lines = systems.format_rows(rows).splitlines()
    cells = {
        row.label: [cell.strip() for cell in line.strip("|").split("|")]
        for row, line in zip(_TABLE.rows.values(), lines[2:], strict=False)
    }
    assert cells["global baseline"][4:] == ["1,000", "128", "1 x", "1 x", "1 x", "1 x"]
    assert cells["triplets"][4:] == ["1,000", "64", "3 x", "1.5 x", "1 x", "1 x"]
    joined = _TABLE.rows[7].label
    # Trained one after another, so that the largest memory counts.
    assert cells[joined][4:] == ["2,000", "192", "4 x", "1.5 x", "2 x", "2 x"]
    assert cells["DREML, 4 members"][4:6] == ["4,000", "512"]
    assert re.search(r"Of the global baseline on one: .* takes 100 ms", lines[-1])


def test_own_photos_rows_have_their_intervals():
    metrics = dict.fromkeys(("top1", "top5", "top20", "map"), 0.5)
    metrics["intervals_95"] = {name: [0.4, 0.6] for name in metrics}
    text = own_photos.format_rows([{"model": "GRNet", "protocols": {"all": metrics}}])
    assert text.splitlines()[0] == "| system | top-1 | top-5 | top-20 | mAP |"
    assert text.splitlines()[2] == "| GRNet |" + 4 * " 50.0 [40.0, 60.0] |"


def test_own_categories_stand_beside_the_commonest():
    names = ("category_top1", "category_top3", "category_top5")
    row = {
        "model": "FashionNet",
        "values": {**dict.fromkeys(names, 0.5), "category_commonest": 0.25},
        "intervals": {name: [0.4, 0.6] for name in names},
    }
    lines = own_categories.format_rows([row]).splitlines()
    assert lines[2] == "| FashionNet |" + " 50.0 [40.0, 60.0] |" * 3
    assert lines[3].startswith("| always the commonest category | 25.0 |")
