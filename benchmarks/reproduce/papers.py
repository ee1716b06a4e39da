"""The papers' tables, a YAML file each: rows with their configs.

papers.json has the numbers that the papers print; a row takes those of the same name.
"""

import json
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any

import pydantic
import yaml

from grnet_jax.errors import InputError

NAMES = ("grnet", "fir", "kucer", "fashionnet")
SYNTHETIC = "synthetic"  # which no paper has
# Their systems on frozen ImageNet features, with a layer that learns under the regions.
FROZEN_FEATURES: dict[str, Any] = {
    **{"model.backbone.name": "efficientnet_lite0", "model.backbone.pretrained": "imagenet"},
    **{"model.backbone.frozen_batch_norm": True, "model.backbone.stride": 16},
    **{"model.backbone.cell_color_weight": 0.3, "model.backbone.reduction_channels": 128},
    **{"image.size": 128, "optimizer.trainable": "-backbone", "train.cached_views": 4},
    **{"train.steps": 600, "train.eval_every": 200, "train.checkpoint_every": 200},
}
# Protocols that stand for several: Street2Shop's categories, and the groups of the queries by view,
# scale and category. "recognition" ranks nothing: it is what is recognized in a split's images.
CATEGORIES, BREAKDOWNS, RECOGNITION = "categories", "breakdowns", "recognition"


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Ensemble(_Part):
    """Members that are one config and differ in one field.

    Attributes:
      field: a config field, whose values are 0, 1, 2, ...
      count: how many members the paper has.
      small: how many there are on the synthetic set.
    """

    field: str
    count: int
    small: int

    def rows(self, row: "Row") -> "tuple[Row, ...]":
        """The members of a row."""
        own = row.model_copy(update={"number": 0, "members": (), "quoted": {}})
        return tuple(
            own.model_copy(update={"fields": {**row.fields, self.field: number}})
            for number in range(self.count)
        )


class Row(_Part):
    """A row of a table.

    Attributes:
      number: as `--rows` names it; 0 outside of a table.
      label: what it is, as the printed table shows it.
      quotes: the row of papers.json whose numbers it quotes; "" for that of its label.
      ours: whether it is a row that the paper does not have.
      built: whether it can be run; if not, the paper's numbers are quoted alone.
      config: the file under configs/ that makes it, "FILE" or "FILE:VARIANT"; "" for the paper's,
        with the paper's fields.
      fields: config fields of its own, in the paper's sizes.
      datasets: where it is run; none for all of the table's.
      weights: the backbone whose weights the user has to give; "" where none are needed.
      keypoints: what the keypoints are, such as joints, whose file the user has to give; "" for
        none.
      members: numbers of other rows of the table, or rows outside of it, or an `Ensemble`, whose
        runs are evaluated as one; none for a row that is trained.
      quoted: of papers.json, the paper's numbers in percent by protocol and metric.
    """

    number: int = 0
    label: str
    quotes: str = ""
    ours: bool = False
    built: bool = True
    config: str = ""
    fields: dict[str, Any] = {}
    datasets: tuple[str, ...] = ()
    weights: str = ""
    keypoints: str = ""
    members: "Ensemble | tuple[int | Row, ...]" = ()
    quoted: dict[str, dict[str, float]] = {}

    @property
    def kind(self) -> str:
        """What the user has to give: "weights", "keypoints", or nothing, ""."""
        return "keypoints" if self.keypoints else "weights" if self.weights else ""

    @property
    def file(self) -> str:
        """The backbone or the keypoints that the user's file is of."""
        return self.keypoints or self.weights

    @property
    def needs(self) -> str:
        """The option by which the user gives the file; "" for rows that need none."""
        return f"--{self.kind}={self.file}=FILE" if self.kind else ""


class Table(_Part):
    """A table of a paper, or the data of a plot.

    Attributes:
      name: as the command names it.
      title: what it shows.
      figures: the table of papers.json that its rows quote; "" for that of its name.
      datasets: where it can be run, the paper's own first.
      protocols: of the evaluation; `CATEGORIES`, `BREAKDOWNS` and `RECOGNITION` stand alone.
      metrics: its columns, as results name them.
      fields: config fields of every row, such as those of the evaluation.
      rows: by number.
      notes: printed below it.
      curves: whether its metrics are drawn as curves besides: top-k accuracy, or of `RECOGNITION`
        the detection rate of landmarks.
    """

    name: str
    title: str
    figures: str = ""
    datasets: tuple[str, ...]
    protocols: tuple[str, ...]
    metrics: tuple[str, ...]
    fields: dict[str, Any] = {}
    rows: dict[int, Row]
    notes: tuple[str, ...] = ()
    curves: bool = False

    @pydantic.field_validator("rows", mode="before")
    @classmethod
    def _number(cls, rows: Any) -> Any:
        return _named(rows, "number")

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Table":
        if list(self.rows) != list(range(1, len(self.rows) + 1)):
            raise ValueError(f"rows: expected numbers from 1 on, got {list(self.rows)}")
        if sorted(self.rows, key=lambda number: self.rows[number].ours) != list(self.rows):
            raise ValueError("rows: expected the paper's before ours")
        for number, row in self.rows.items():
            for member in row.members if isinstance(row.members, tuple) else ():
                if isinstance(member, int) and member not in self.rows:
                    raise ValueError(f"rows.{number}.members: there is no row {member}")
        return self

    @property
    def quoted_metrics(self) -> tuple[str, ...]:
        """Those of its metrics that a row quotes."""
        quoted = {name for row in self.rows.values() for of in row.quoted.values() for name in of}
        return tuple(name for name in self.metrics if name in quoted)

    def on(self, dataset: str, members: int = 0) -> "Table":
        """The table with the rows that are run on a data set; the paper's others are quoted.

        Args:
          dataset: one of the table's.
          members: how many every `Ensemble` has; 0 for its own number.
        """
        rows = {}
        for number, row in self.rows.items():
            changed: dict[str, Any] = {}
            if isinstance(row.members, Ensemble):
                own = row.members.small if dataset == SYNTHETIC else row.members.count
                count = {"count": members or own}
                changed["members"] = row.members.model_copy(update=count)
            if row.datasets and dataset not in row.datasets:
                changed["built"] = False
                if row.ours:
                    continue
            rows[number] = row.model_copy(update=changed)
        return self.model_copy(update={"rows": rows})

    def members(self, row: Row) -> tuple[Row, ...]:
        """The rows whose runs a row evaluates as one."""
        if isinstance(row.members, Ensemble):
            return row.members.rows(row)
        return tuple(self.rows[one] if isinstance(one, int) else one for one in row.members)

    def choose(self, numbers: tuple[int, ...] = ()) -> list[Row]:
        """The rows of these numbers in that order; all that we have where none is given.

        Raises:
          InputError: the table has no such row, or it is only quoted.
        """
        built = {number: row for number, row in self.rows.items() if row.built}
        for number in numbers:
            if number not in self.rows:
                problem = f"{self.name} has no row {number}"
            elif number not in built:
                label = self.rows[number].label
                problem = f"row {number} of {self.name} ({label}) is only quoted on this data set"
            else:
                continue
            raise InputError(f"--rows: {problem}; expected some of {list(built)}")
        return [built[number] for number in numbers or built]


class Synthetic(_Part):
    """What differs on the synthetic set.

    Attributes:
      fields: config fields of every row, before the user's.
      frozen_features: whether every row takes `FROZEN_FEATURES`, too.
      values: by field the paper's values and those that take their place.
      detector: the run that finds the boxes of rows with detected crops; None where there are none.
    """

    fields: dict[str, Any] = {}
    frozen_features: bool = False
    values: dict[str, dict[Any, Any]] = {}
    detector: Row | None = None


class Start(_Part):
    """A run that rows start from, in place of ImageNet's weights, which it starts from itself.

    Attributes:
      row: the run, in its own fields alone; None for each row's own system, trained on `dataset`.
      dataset: where that is trained, whose download the user has to give; "" for the table's.
      params: what is taken from it, as `train.init_params` has it.
    """

    row: Row | None = None
    dataset: str = ""
    params: str = "backbone"


class Paper(_Part):
    """A paper's tables.

    Attributes:
      name: as the command names it.
      title: how it is cited.
      config: the file under configs/ of rows that name none, "FILE" or "FILE:VARIANT".
      fields: config fields of rows that name no config, in the paper's sizes.
      synthetic: what differs on the synthetic set.
      starts: by data set what rows without `weights` start from, where their config starts from
        nothing.
      tables: by name, in the paper's order.
    """

    name: str
    title: str
    config: str
    fields: dict[str, Any] = {}
    synthetic: Synthetic = Synthetic()
    starts: dict[str, Start] = {}
    tables: dict[str, Table]

    @pydantic.field_validator("tables", mode="before")
    @classmethod
    def _name(cls, tables: Any) -> Any:
        return _named(tables, "name")

    def table(self, name: str) -> Table:
        """The table of that name.

        Raises:
          InputError: naming the tables there are.
        """
        if name not in self.tables:
            raise InputError(
                f"TABLE: {self.name} has no {name!r}; expected one of {list(self.tables)}"
            )
        return self.tables[name]

    def fields_of(self, table: Table, row: Row, dataset: str) -> dict[str, Any]:
        """All config fields that a row sets on a data set."""
        fields = {**({} if row.config else self.fields), **table.fields, **row.fields}
        if dataset != SYNTHETIC:
            return fields
        for name, values in self.synthetic.values.items():
            if name in fields:
                fields[name] = values.get(fields[name], fields[name])
        frozen = FROZEN_FEATURES if self.synthetic.frozen_features else {}
        return {**fields, **frozen, **self.synthetic.fields}


def find_paper(name: str) -> Paper:
    """Returns the paper of that name.

    Raises:
      InputError: naming the papers there are, or the file and field that are wrong.
    """
    if name not in NAMES:
        raise InputError(f"PAPER: {name!r} is none of {list(NAMES)}")
    return load_paper(pathlib.Path(__file__).with_name(f"{name}.yaml"))


def load_paper(path: pathlib.Path) -> Paper:
    """Reads a paper's file.

    Raises:
      InputError: naming the file and each field that is wrong.
    """
    try:
        content = yaml.load(path.read_text(), _Loader)
        figures = json.loads(path.with_name("papers.json").read_text()).get(path.stem, {})
        paper = Paper.model_validate({**content, "name": path.stem})
        tables = {name: _quote(table, figures) for name, table in paper.tables.items()}
        return paper.model_copy(update={"tables": tables})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {error}") from error
    except pydantic.ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems)) from error


def papers_counts(dataset: str) -> str:
    """Returns in words what the papers count of a data set; "" of those that none has."""
    figures = json.loads(pathlib.Path(__file__).with_name("papers.json").read_text())
    return str(figures["counts"].get(dataset, ""))


def _quote(table: Table, figures: Mapping[str, Any]) -> Table:
    """The table with the paper's numbers in its rows.

    Args:
      table: as its file has it.
      figures: of the paper's tables, by table, row, protocol and metric.

    Raises:
      InputError: it has not the rows of the paper in its order, or not their protocols or metrics.
    """
    rows, names = {}, []
    found = figures.get(table.figures or table.name, {})
    for number, row in table.rows.items():
        quoted = {} if row.ours else found.get(row.quotes or row.label, {})
        rows[number] = row.model_copy(update={"quoted": quoted})
        names += [row.quotes or row.label] if quoted else []
        metrics = {metric for of_protocol in quoted.values() for metric in of_protocol}
        every = table.protocols[0] == CATEGORIES or set(quoted) <= set(table.protocols)
        if not every or not metrics <= set(table.metrics):
            raise InputError(f"tables.{table.name}.rows.{number}: its figures have other columns")
    if names != list(found):
        raise InputError(f"tables.{table.name}.rows: expected {list(found)}, got {names}")
    return table.model_copy(update={"rows": rows})


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the later one would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} twice", mark)
        return super().construct_mapping(node, deep)


def _named(parts: Any, name: str) -> Any:
    """Parts with their keys as fields of their own."""
    if not isinstance(parts, Mapping):
        return parts
    return {
        k: {**part, name: k} if isinstance(part, Mapping) else part for k, part in parts.items()
    }
