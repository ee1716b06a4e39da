"""The tables of the study of fashion image retrieval (Park et al., 2019).

The paper was not at hand: rows and recipe are those that its description names, and no figure of
its own is quoted.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.reproduce.tables import Paper, Row, Table

_BACKBONES = {
    "DenseNet-121": "densenet121",
    "ResNet-50": "resnet50",
    "SE-ResNet-50": "seresnet50",
    "SE-ResNeXt-50": "seresnext50_32x4d",
}
_LOSSES: dict[str, dict[str, Any]] = {
    "OC": {"loss.name": "classification"},
    "OC+OS": {"loss.similarity": "category"},
    "OC+IS": {"loss.similarity": "item"},
}
_PUBLISHED = ("deepfashion_inshop", "deepfashion_c2s")
_CURVE = ("top1", "top5", "top10", "top20", "top30", "top40", "top50")
# On the embedded set every row has just the config's steps: no checkpoint is chosen by validation.
_SYNTHETIC = {"train.eval_every": 0}
_LOSSES_NOTE = (
    "OC: cross-entropy of the category; OS, IS: triplets beside it, of photos of the same category "
    "or the same item."
)
_READING = (
    "The paper was not at hand: that this is what it shows is our reading, and none of its figures "
    "is quoted."
)
_CATEGORIES = "Category accuracies are of all photos of the split that is measured."
_SIZES = (
    "docs/backbones.md has the networks' parameters. One source gives 28.1 M for ResNet-50, which "
    "is what SE-ResNet-50 has; ResNet-50 has 25.6 M."
)


def _adapt(fields: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    return {**fields, **_SYNTHETIC} if dataset == "synthetic" else dict(fields)


def _rows() -> tuple[Row, ...]:
    """Every backbone with every loss; on the embedded set the small backbone alone."""
    rows: list[Row] = []
    for label, name in (*_BACKBONES.items(), ("small", "small")):
        datasets = ("synthetic",) if name == "small" else _PUBLISHED
        for loss, fields in _LOSSES.items():
            made = {"model.backbone.name": name, **fields}
            rows.append(Row(len(rows) + 1, f"{label}, {loss}", made, datasets=datasets))
    return tuple(rows)


_TABLE_2 = Table(
    "table2",
    "Table 2: backbones and losses",
    (*_PUBLISHED, "synthetic"),
    ("all",),
    ("top1", "top5", "top20", "top50", "map", "category_top1", "category_top3", "category_top5"),
    _rows(),
    notes=(_LOSSES_NOTE, _CATEGORIES, _SIZES, _READING),
)


def _figure(name: str, title: str, dataset: str) -> Table:
    return Table(
        name,
        title,
        (dataset, "synthetic"),
        ("all",),
        _CURVE,
        _rows(),
        notes=(_LOSSES_NOTE, _READING),
        curves=True,
    )


PAPER = Paper(
    name="fir",
    title="Park et al., Study on Fashion Image Retrieval Methods for Efficient Fashion Visual "
    "Search, 2019",
    config="fir",
    base={},
    tables=(
        _TABLE_2,
        _figure("figure3", "Figure 3: top-k accuracy in the shop", "deepfashion_inshop"),
        _figure("figure4", "Figure 4: top-k accuracy from consumer to shop", "deepfashion_c2s"),
    ),
    adapt=_adapt,
)
