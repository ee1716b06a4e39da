"""The tables of detect-then-retrieve's retrieval (Kucer and Murray, 2019).

The paper was not at hand: rows are those that its description names, which table has which is our
reading, and no figure of its own is quoted.
"""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from benchmarks.reproduce.runner import read_config
from benchmarks.reproduce.tables import CATEGORIES, Paper, Row, Table

_CONFIG = "detect_then_retrieve"
_DATASETS = ("street2shop", "synthetic")
_FIGURES = ("top1", "top20", "map")
# A crop of a shop photo is a detector's box, for Street2Shop's have no others.
_CROPS = {"data.shop_crop": "detected"}
_RUNS = (
    Row(1, "Tri, full", {"loss.name": "triplet"}),
    Row(2, "Tri, crop", {"loss.name": "triplet", **_CROPS}),
    Row(3, "mAP, full", {"loss.name": "ap"}),
    Row(4, "mAP, crop", {"loss.name": "ap", **_CROPS}),
)
_TRI_FULL, _TRI_CROP, _MAP_FULL, _MAP_CROP = _RUNS
_ENSEMBLES = (
    Row(5, "Tris (#1, #2)", {}, members=(_TRI_FULL, _TRI_CROP)),
    Row(6, "mAPs (#3, #4)", {}, members=(_MAP_FULL, _MAP_CROP)),
    Row(7, "Fulls (#1, #3)", {}, members=(_TRI_FULL, _MAP_FULL)),
    Row(8, "Crops (#2, #4)", {}, members=(_TRI_CROP, _MAP_CROP)),
    Row(9, "all four", {}, members=_RUNS),
)

# On the embedded set no checkpoint is chosen by validation; all rows start from one backbone, that
# was trained to tell the training items apart.
_SYNTHETIC = {
    "train.steps": 300,
    "train.eval_every": 0,
    "train.checkpoint_every": 100,
    "optimizer.warmup_steps": 30,
}
_NOTES = (
    "Full: shop photos whole; crop: cut to a detector's box, on the synthetic set to the garment's "
    "own. Queries are cut to their box in both. Ensembles: the members' descriptors side by side.",
    "The paper was not at hand: its tables' rows and order are our reading, and none of its "
    "figures is quoted.",
)


def _changes(loss: str, dataset: str) -> dict[str, Any]:
    """What a loss changes in the config of the triplets."""
    own, base = (
        flatten_dict(read_config(_CONFIG, argument).to_dict(), sep=".")
        for argument in (f"{dataset},{loss}", dataset)
    )
    return {field: own[field] for field in own if own[field] != base[field] and field != "name"}


def _adapt(fields: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """With all that the row's loss brings; on the embedded set its recipe, and its own boxes."""
    found = {**_changes(fields.get("loss.name", "triplet"), dataset), **fields}
    if dataset != "synthetic":
        return found
    if found.get("data.shop_crop") == "detected":
        found["data.shop_crop"] = "box"
    return {**found, **_SYNTHETIC}


def _start() -> dict[str, Any]:
    return {
        **_adapt({"loss.name": "classification"}, "synthetic"),
        "train.steps": 1000,
        "optimizer.warmup_steps": 100,
    }


def _table(name: str, title: str, rows: tuple[Row, ...], categories: bool = False) -> Table:
    return Table(
        name,
        title,
        _DATASETS,
        CATEGORIES if categories else ("category_mean",),
        _FIGURES,
        rows,
        fields={"eval.same_category": True},
        notes=_NOTES,
    )


PAPER = Paper(
    name="kucer",
    title="Kucer and Murray, A Detect-Then-Retrieve Model for Multi-Domain Fashion Item Retrieval, "
    "2019",
    config=_CONFIG,
    base={},
    tables=(
        _table("table1", "Table 1: losses on Street2Shop", _RUNS),
        _table("table2", "Table 2: ensembles on Street2Shop", (*_RUNS, *_ENSEMBLES)),
        _table("table3", "Table 3: Street2Shop by category", (*_RUNS, *_ENSEMBLES), True),
    ),
    adapt=_adapt,
    start={"synthetic": _start()},
)
