"""Plots of measured results by matplotlib, which is imported only where a plot is drawn.

Breakdowns and attribute recall are drawn as Fig. 11 and Fig. 7 of FashionNet (Liu et al., 2016).
"""

import dataclasses
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from grnet_jax.errors import InputError
from grnet_jax.evaluation.retrieval_metrics import TOP_K, RetrievalMetrics
from grnet_jax.metrics import MIN_RESULTS
from input_pipeline import read_object, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which most color-blind people tell apart; when they are used up, the next
# line style. Each curve has its own marker besides.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_MARKERS = "osD^vPX*<>ph8"
_GRID = "#e1e3e6"
_PIXELS = 2560  # of a file's width: 1280, at twice the resolution
_WIDTH, _PANEL_WIDTH = 8.0, 3.4  # inches, which with the pixels decide how large the text is
_RECALL = "recall5"
_MAX_ATTRIBUTES = 70  # in a plot: the most frequent, as many as the paper's has


@dataclasses.dataclass(frozen=True)
class Curve:
    """A fraction by x, as a system's top-k accuracy by k.

    Attributes:
      label: of the legend.
      x: [n], rising.
      y: [n], in 0..1.
      intervals: [n, 2], lower and upper bounds, drawn as bars; None without.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    intervals: np.ndarray | None = None


def plot_curves(
    panels: Mapping[str, Sequence[Curve]], title: str, x_label: str, *, log_x: bool = False
) -> "Figure":
    """Plots curves in percent, a panel per quantity, side by side; `savefig` writes the figure.

    Args:
      panels: by the label of their y axis, the curves of each.
      title: of the figure.
      x_label: of every panel.
      log_x: whether the x axes are logarithmic.

    Raises:
      InputError: there is no curve, or one has no points.
    """
    from matplotlib.ticker import NullLocator, PercentFormatter

    curves = [curve for panel in panels.values() for curve in panel]
    if not curves or not all(len(curve.x) for curve in curves):
        raise InputError(f"{title}: expected curves of one point or more, got {len(curves)} curves")
    ticks = np.unique(np.concatenate([curve.x for curve in curves]))
    width = max(_WIDTH, _PANEL_WIDTH * len(panels))
    figure = _figure(4.8, width)
    figure.suptitle(textwrap.fill(title, int(9 * width)), ha="left", x=0.01)
    for number, (y_label, panel) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), number, xlabel=x_label, ylabel=y_label)
        for index, curve in enumerate(panel):
            _plot_curve(axes, curve, index, index - (len(panel) - 1) / 2, log_x)
        axes.set_ylim(bottom=0)
        axes.set_xscale("log" if log_x else "linear")
        if len(ticks) <= 10:
            axes.set_xticks(ticks, map(str, ticks))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", color=_GRID)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.spines[["top", "right"]].set_visible(False)
        # In the order in which the curves end, beside one panel's ends or below several panels.
        order = np.argsort([-curve.y[-1] for curve in panel], kind="stable")
        drawn, labels = ([part[i] for i in order] for part in axes.get_legend_handles_labels())
        if len(panels) == 1:
            axes.legend(drawn, labels, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        else:
            axes.legend(
                drawn, labels, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False
            )
    return figure


def plot_top_k(curves: Sequence[Curve], title: str) -> "Figure":
    """Plots top-k accuracy over k."""
    return plot_curves({"top-k accuracy": curves}, title, "k, gallery images listed", log_x=True)


def plot_bars(
    names: Sequence[str], values: Mapping[str, Sequence[float]], title: str, x_label: str
) -> "Figure":
    """Plots horizontal bars, the first name's at the top.

    Args:
      names: of the bars.
      values: by system the fraction in 0..1 of every name; several have a legend.
      title: of the figure.
      x_label: what the fractions are.
    """
    figure = _figure(1.2 + 0.24 * len(names) * max(len(values), 1) ** 0.5)
    axes = figure.add_subplot(title=title, xlabel=x_label, xlim=(0, 1))
    places, height = np.arange(len(names)), 0.8 / max(len(values), 1)
    for index, (label, fractions) in enumerate(values.items()):
        at = places + (index - (len(values) - 1) / 2) * height
        bars = axes.barh(at, fractions, height, label=label, color=COLORS[index % len(COLORS)])
        if len(values) == 1:
            axes.bar_label(bars, [f"{value:.1%}" for value in fractions], padding=4)
    axes.set_yticks(places, [name[:32] for name in names])
    if len(values) > 1:
        axes.legend(frameon=False)
    axes.invert_yaxis()
    axes.margins(y=0.5 / len(names))
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_matches(rows: Sequence[Sequence[tuple[np.ndarray, str, bool]]], title: str) -> "Figure":
    """Plots a query and its best matches a row.

    Args:
      rows: of each query it and its matches, as uint8 [H, W, 3], caption and whether it is framed.
      title: of the figure.
    """
    columns = max(map(len, rows))
    figure = _figure(0.3 + len(rows) * (1.25 * _WIDTH / columns + 0.25), pixels=_PIXELS // 2)
    figure.suptitle(title, ha="left", x=0.01)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, images in zip(grid, rows, strict=True):
        for axes, (pixels, caption, framed) in zip(row, images, strict=False):
            axes.imshow(pixels)
            axes.set_xlabel(caption, fontsize=8)
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=COLORS[2] if framed else _GRID, linewidth=3 if framed else 1)
    return figure


def plot_scores(metrics: RetrievalMetrics) -> str:
    """Plots calibration of best matches and the ROC curve, as SVG; "" where neither is known."""
    lines = []
    best = metrics.best_match
    if best and best.results >= MIN_RESULTS:
        curve = best.equal_mass[:, 1:]
        labels = ("mean probability of best matches", "fraction of them that is right")
        lines.append(("Calibration of best matches", *labels, curve, "o"))
    if metrics.open_set:
        labels = ("passing without a match (FPR)", "passing with a match (TPR)")
        title = "ROC curve: is the item in the gallery?"
        lines.append((title, *labels, metrics.open_set.curve, ""))
    if not lines:
        return ""
    figure = _figure(4.4, width=4.4 * len(lines))
    for number, (title, x_label, y_label, curve, marker) in enumerate(lines, start=1):
        axes = figure.add_subplot(
            1, len(lines), number, title=title, xlabel=x_label, ylabel=y_label, aspect="equal"
        )
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.plot([0, 1], [0, 1], color=_GRID, linestyle="--")
        axes.plot(*curve.T, color=COLORS[0], marker=marker, clip_on=False)
    return _svg(figure)


def write_plots(folder: epath.Path, output: epath.Path) -> list[str]:
    """Plots what the results in `folder` hold as PNG files in `output`; returns their paths.

    Raises:
      InputError: the folder has neither results.json nor recognition.json, or they have nothing to
        plot.
    """
    written = []
    for name, figure in _figures(folder):
        written.append(write_figure(figure, output / name))
    if not written:
        raise InputError(
            f"{folder}: has no results.json with breakdowns and no recognition.json with "
            "attributes; eval.py writes them"
        )
    return written


def write_figure(figure: "Figure", path: epath.Path) -> str:
    """Writes a figure in the format of the path's ending; returns the path.

    Raises:
      InputError: the ending is another than .png, .jpg, .svg or .pdf.
    """
    if path.suffix not in (".png", ".jpg", ".svg", ".pdf"):
        raise InputError(f"{path}: expected a name that ends in .png, .jpg, .svg or .pdf")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    write_file(path, content.getvalue())
    return str(path)


def _figures(folder: epath.Path) -> Iterator[tuple[str, "Figure"]]:
    for name, draw in (("results.json", _draw_breakdowns), ("recognition.json", _draw_recalls)):
        if (path := folder / name).exists():
            content = read_object(path, "what eval.py wrote")
            try:
                yield from draw(content)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise InputError(f"{path}: not what eval.py wrote: {error!r}") from error


def _draw_breakdowns(results: Mapping[str, Any]) -> Iterator[tuple[str, "Figure"]]:
    for kind, groups in results.get("breakdowns", {}).items():
        if curves := breakdown_curves(groups):
            title = f"Top-k accuracy by {kind} of the query, with 95% intervals"
            yield f"breakdown_{kind}.png", plot_top_k(curves, title)


def _draw_recalls(recognition: Mapping[str, Any]) -> Iterator[tuple[str, "Figure"]]:
    if attributes := recognition.get("attributes"):
        names, values = attribute_recalls(attributes)
        title = f"Top-5 recall of the {len(names)} most frequent attributes"
        yield "attribute_recall.png", plot_bars(names, {"recall": values}, title, "top-5 recall")


def breakdown_curves(groups: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    """Returns a curve per group with measured queries, from `breakdowns` of results.json."""
    return [
        Curve(
            f"{name} ({group['queries']:,} queries)",
            np.array(TOP_K),
            np.array([group[f"top{k}"] for k in TOP_K]),
            np.array([group["intervals_95"][f"top{k}"] for k in TOP_K]),
        )
        for name, group in groups.items()
        if group["queries"]
    ]


def attribute_recalls(
    attributes: Mapping[str, Mapping[str, float]],
) -> tuple[list[str], list[float]]:
    """Returns names and top-5 recalls of the most frequent attributes, by falling recall.

    Args:
      attributes: of recognition.json.
    """
    frequent = sorted(attributes, key=lambda name: -attributes[name]["photos"])[:_MAX_ATTRIBUTES]
    names = sorted(frequent, key=lambda name: -attributes[name][_RECALL])
    return names, [attributes[name][_RECALL] for name in names]


def _figure(height: float, width: float = _WIDTH, pixels: int = _PIXELS) -> "Figure":
    """Returns an empty figure; without pyplot it needs no display and leaves no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=pixels / width, layout="constrained")


def _plot_curve(axes: "Axes", curve: Curve, index: int, shift: float, log_x: bool) -> None:
    """Plots a curve in its color and marker; shifted a little, so that intervals stay apart."""
    x, bars = np.asarray(curve.x, float), None
    if curve.intervals is not None:
        by = 0.004 * shift
        x = x * (x[-1] / x[0]) ** by if log_x else x + by * np.ptp(x)
        bars = np.abs(np.transpose(curve.intervals) - curve.y)
    color, marker = (choices[index % len(choices)] for choices in (COLORS, _MARKERS))
    axes.errorbar(
        *(x, curve.y, bars), label=curve.label, color=color, ecolor=(color, 0.4), marker=marker,
        linestyle=_LINES[index // len(COLORS) % len(_LINES)], markersize=7,
        markeredgecolor="white", markeredgewidth=0.4,
    )  # fmt: skip


def _svg(figure: "Figure") -> str:
    """Returns a figure as an SVG element for a page, the same for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "plots"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    # Black is the page's own color of text, dark or light.
    return text[text.index("<svg") :].replace("#000000", "currentColor")
