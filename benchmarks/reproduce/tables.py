"""What a paper's table is: rows with their configs, and the figures that the paper prints."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from grnet_jax.errors import InputError

# The protocols of a table whose rows are Street2Shop's categories: those that the evaluation has.
CATEGORIES = ("categories",)
# The protocols of a table of retrieval by view, scale and category: the groups that there are.
BREAKDOWNS = ("breakdowns",)
# The protocol of tables of what is recognised in a split's photos, which ranks nothing.
RECOGNITION = "recognition"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      number: as `--rows` names it, from 1.
      label: what it is, as the printed table shows it.
      fields: config fields that make it, beside the paper's `base`; None where we have no such
        system, and the paper's figures are quoted alone.
      quoted: the paper's figures in percent, by protocol and figure ("top1"); only those that a
        source has.
      datasets: that it is run on; none for all of the table's.
      config: the file under configs/ that makes it, without the paper's `base`; "" the paper's.
      members: rows, of the table or not, whose runs are evaluated as one; none for a row that is
        trained.
      weights: the backbone whose weights the user has to give; "" where none are needed.
      points: what the points are, such as joints, whose file the user has to give; "" for none.
    """

    number: int
    label: str
    fields: Mapping[str, Any] | None
    quoted: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    config: str = ""
    weights: str = ""
    points: str = ""
    members: "tuple[Row, ...]" = ()

    @property
    def needs(self) -> str:
        """The option of the file that the user has to give; "" for rows that need none."""
        return f"--{self.kind}={self.file}=FILE" if self.kind else ""

    @property
    def kind(self) -> str:
        """What it needs: "weights", "points" or nothing, ""."""
        return "points" if self.points else "weights" if self.weights else ""

    @property
    def file(self) -> str:
        """What that file is of: the backbone or the points."""
        return self.points or self.weights


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper, or its data drawn as curves.

    Attributes:
      name: as the command names it.
      title: what it shows.
      datasets: that it can be run on, the paper's own first.
      protocols: of the evaluation, or `CATEGORIES`, or `BREAKDOWNS`, or `RECOGNITION` alone.
      figures: its columns, as results name them.
      rows: in the paper's order.
      fields: config fields of every row, such as those of the evaluation.
      notes: where the quoted figures come from, and what is not known of them.
      curves: whether top-k accuracy, or of `RECOGNITION` the detection rate of landmarks, is
        drawn as curves besides.
    """

    name: str
    title: str
    datasets: tuple[str, ...]
    protocols: tuple[str, ...]
    figures: tuple[str, ...]
    rows: tuple[Row, ...]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    curves: bool = False

    @property
    def ours_alone(self) -> bool:
        """Whether it is no paper's table: it is run on the embedded set and nowhere else."""
        return self.datasets == ("synthetic",)

    @property
    def quoted_figures(self) -> tuple[str, ...]:
        """Those of its figures that a row quotes."""
        named = {name for row in self.rows for of in row.quoted.values() for name in of}
        return tuple(name for name in self.figures if name in named)

    def on(self, dataset: str) -> "Table":
        """The table with the rows that there are on a data set."""
        rows = tuple(row for row in self.rows if not row.datasets or dataset in row.datasets)
        return dataclasses.replace(self, rows=rows)

    def choose(self, numbers: tuple[int, ...]) -> list[Row]:
        """The rows of these numbers in that order; all that we have where none is given.

        Raises:
          InputError: the table has no such row, or it is only quoted.
        """
        built = {row.number: row for row in self.rows if row.fields is not None}
        labels = {row.number: row.label for row in self.rows}
        for number in numbers:
            if number not in labels:
                raise InputError(
                    f"--rows: {self.name} has no row {number}; expected some of {list(built)}"
                )
            if number not in built:
                raise InputError(
                    f"--rows: row {number} of {self.name} ({labels[number]}) is quoted from the "
                    f"paper and not built here; expected some of {list(built)}"
                )
        return [built[number] for number in numbers or built]


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper's tables.

    Attributes:
      name: as the command names it.
      title: how it is cited.
      config: the file under configs/ that rows without one of their own start from.
      base: config fields of these rows, in the paper's sizes.
      tables: in the paper's order.
      adapt: a row's fields, in the paper's sizes, as they are run on a data set; the recipe of
        sets that the paper does not have is among them.
      start: by data set the fields, as `adapt` returns them, of the run whose backbone every row
        without `weights` starts from; sets that are not there start as the config says.
    """

    name: str
    title: str
    config: str
    base: Mapping[str, Any]
    tables: tuple[Table, ...]
    adapt: Callable[[Mapping[str, Any], str], dict[str, Any]]
    start: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def breaks_down(self) -> bool:
        """Whether a table of it has retrieval by groups of the queries."""
        return any(table.protocols == BREAKDOWNS for table in self.tables)

    def table(self, name: str) -> Table:
        """The table of that name.

        Raises:
          InputError: naming the tables there are.
        """
        for table in self.tables:
            if table.name == name:
                return table
        names = [table.name for table in self.tables]
        raise InputError(f"TABLE: {self.name} has no {name!r}; expected one of {names}")

    def fields(self, table: Table, row: Row, dataset: str) -> dict[str, Any]:
        """All config fields that a row sets on a data set."""
        base = {} if row.config else self.base
        return self.adapt({**base, **table.fields, **(row.fields or {})}, dataset)
