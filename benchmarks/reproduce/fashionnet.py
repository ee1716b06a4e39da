"""The tables of FashionNet (Liu et al., DeepFashion, CVPR 2016).

The paper's tables and plots were not at hand: rows are those that its description names, and of its
figures only those that a later plot's legend gives are quoted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.reproduce.tables import BREAKDOWNS, RECOGNITION, Paper, Row, Table

_SYNTHETIC_NUMBERS = {100: 10, 500: 25}  # of the embedded set's 52 attributes
# On the embedded set every row has just the config's steps: no checkpoint is chosen by validation.
_SYNTHETIC = {"train.eval_every": 0}
_CURVE = ("top1", "top5", "top10", "top20", "top30", "top40", "top50")
_WITHOUT_ATTRIBUTES = {"loss.pose.attributes": 0.0, "loss.recognition.attributes": 0.0}
_ANNOTATED = {"model.pooling": "given", "model.given_points": 8, "data.points": "landmarks"}
_NOTES = (
    "WTBI: a learned metric on a pre-trained VGG-16's features; it needs its weights. DARN and "
    "WTBI are built as their modules say. Joints and poselets, around which it pools in the "
    "landmarks' place, need a file of points (docs/fashionnet.md).",
    "On the synthetic set +100 and +500 are the 10 and 25 most frequent of its 52 attributes.",
)
_START = (
    "WTBI starts from the weights of --weights, DARN and FashionNet from those of "
    "--config.model.backbone.pretrained, and from scratch without."
)
_READING = (
    "The paper's own figures are not at hand but where quoted: the top-20 of DeepFashion's "
    "benchmark as the legend of a later plot gives them."
)


def _adapt(fields: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    found = dict(fields)
    if dataset != "synthetic":
        return found
    number = found.get("loss.most_frequent_attributes")
    if number:
        found["loss.most_frequent_attributes"] = _SYNTHETIC_NUMBERS[number]
    return {**found, **_SYNTHETIC}


def _fashionnets(first: int, *, attributes: bool = True) -> tuple[Row, ...]:
    """FashionNet's variants from a number on; those of attributes where the data set has some."""
    variants: list[tuple[str, dict[str, Any], str]] = []
    if attributes:
        variants += [
            (f"FashionNet+{most}", {"loss.most_frequent_attributes": most}, "")
            for most in (100, 500)
        ]
    variants += [
        ("FashionNet+Joints", {"model.pooling": "given"}, "joints"),
        ("FashionNet+Poselets", {"model.pooling": "given"}, "poselets"),
        ("FashionNet, no landmark pooling", {"model.pooling": "none"}, ""),
        ("FashionNet", {}, ""),
    ]
    return tuple(
        Row(number, label, fields, points=points)
        for number, (label, fields, points) in enumerate(variants, first)
    )


def _retrieval(name: str, title: str, dataset: str, top20: Mapping[str, float]) -> Table:
    quoted = {system: {"all": {"top20": value}} for system, value in top20.items()}
    rows = _fashionnets(3, attributes=dataset == "deepfashion_c2s")  # in-shop photos have none
    return Table(
        name,
        title,
        (dataset, "synthetic"),
        ("all",),
        _CURVE,
        (
            Row(1, "WTBI", {}, quoted.get("WTBI", {}), config="wtbi", weights="vgg16"),
            Row(2, "DARN", {}, quoted.get("DARN", {}), config="darn"),
            *rows[:-1],
            dataclasses.replace(rows[-1], quoted=quoted.get("FashionNet", {})),
        ),
        notes=(*_NOTES, _START, _READING),
        curves=True,
    )


_RECOGNITION = Table(
    "recognition",
    "Category and attribute prediction",
    ("deepfashion_attributes", "synthetic"),
    (RECOGNITION,),
    (
        "category_top3",
        "category_top5",
        *(
            f"attribute_recall{k}{of}"
            for of in ("_texture", "_fabric", "_shape", "_part", "_style", "")
            for k in (3, 5)
        ),
    ),
    (Row(1, "DARN", {}, config="darn"), *_fashionnets(2)),
    notes=(*_NOTES, "Attributes of the synthetic set have no types: they have the last two alone."),
)

_LANDMARKS = Table(
    "landmarks",
    "Landmark detection",
    ("deepfashion_attributes", "synthetic"),
    (RECOGNITION,),
    ("landmark_pdj_0.1", "landmark_error", "visibility_accuracy"),
    (
        Row(1, "FashionNet, landmarks without attributes", _WITHOUT_ATTRIBUTES),
        Row(2, "FashionNet", {}),
    ),
    notes=(
        "Distances are shares of the side of the square that the network sees: the curve's "
        "normaliser. The paper's is not known.",
    ),
    curves=True,
)

# Of Fig. 7, each attribute's recall, there is the plot that each run's folder gets.
_BREAKDOWNS = Table(
    "figure11",
    "Retrieval by view, scale and category of the query",
    ("deepfashion_c2s", "synthetic"),
    BREAKDOWNS,
    ("top1", "top20", "top50"),
    (
        Row(1, "WTBI", {}, config="wtbi", weights="vgg16"),
        Row(2, "DARN", {}, config="darn"),
        Row(3, "FashionNet", {}),
    ),
    notes=(_NOTES[0], _START, "Scale is the share of the photo that the garment's box fills."),
)

# On the embedded set alone: what each part is worth, all figures of a run side by side.
_DEMO = Table(
    "demo",
    "FashionNet with and without its parts",
    ("synthetic",),
    ("all",),
    (
        "top1",
        "top5",
        "map",
        "category_top1",
        "category_commonest",
        "attribute_recall3",
        "attribute_recall3_commonest",
        "landmark_pdj_0.1",
        "landmark_error",
    ),
    (
        Row(1, "FashionNet, no landmark pooling", {"model.pooling": "none"}),
        Row(2, "FashionNet, landmarks without attributes", _WITHOUT_ATTRIBUTES),
        Row(3, "FashionNet", {}),
        Row(4, "FashionNet, pooling around the annotated landmarks", _ANNOTATED),
    ),
    notes=(
        "Commonest: what guessing the test split's commonest category, or its most frequent "
        "attributes, would reach. Landmarks are those that are visible, distances shares of the "
        "side of the square that the network sees.",
    ),
)

PAPER = Paper(
    name="fashionnet",
    title="Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich "
    "Annotations, CVPR 2016",
    config="fashionnet",
    base={},
    tables=(
        _RECOGNITION,
        _retrieval("inshop", "Retrieval in the shop", "deepfashion_inshop", {}),
        _retrieval(
            "consumer_to_shop",
            "Retrieval from consumer to shop",
            "deepfashion_c2s",
            {"WTBI": 6.3, "DARN": 11.1, "FashionNet": 18.8},
        ),
        _LANDMARKS,
        _BREAKDOWNS,
        _DEMO,
    ),
    adapt=_adapt,
)
