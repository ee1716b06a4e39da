"""Writes the result page: metrics, and queries with their first results."""

import base64
import io
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw

from grnet_jax.evaluation.reports import (
    OTHER_COLUMNS,
    TABLE_COLUMNS,
    column_title,
    describe_scores,
    format_figure,
)
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.visualization.explanation_page import PAGE
from grnet_jax.visualization.plots import plot_scores
from grnet_jax.visualization.templating import render
from input_pipeline import VIEWS, write_file

_EXAMPLES = 4  # best and worst queries of each protocol
_SAMPLE = 8  # queries drawn at random, so that the page does not show extremes only
_MATCHES = 8  # gallery images shown for a query
_THUMBNAIL = 128  # pixels, the longer side


def write_result_page(
    directory: epath.Path, result: RetrievalResult, model: str, step: int, explain: str = ""
) -> str:
    """Writes `results.html`, one file with its pictures inside, and returns its path.

    Args:
      directory: where to.
      result: whose protocol has the images.
      model: its name.
      step: of the checkpoint.
      explain: the command that writes the page of explanations; "" for none.
    """
    examples = _Examples(result)
    page = render(
        "results.html",
        model=model,
        step=step,
        dataset=result.protocol.dataset,
        split=result.protocol.split,
        protocol=result.describe(),
        columns=TABLE_COLUMNS,
        other_columns=OTHER_COLUMNS,
        scores=describe_scores(result),
        plots=plot_scores(result.metrics["all"]),
        metrics=result.metrics,
        format_figure=format_figure,
        column_title=column_title,
        sections=examples.sections(),
        explain=explain,
        explanations=PAGE,
    )
    path = directory / "results.html"
    write_file(path, page)
    return str(path)


class _Examples:
    """Chooses queries and prepares them for the template."""

    def __init__(self, result: RetrievalResult):
        self._result = result
        self._protocol = result.protocol
        self._split = result.protocol.images
        self._pictures: dict[int, str] = {}
        # Sorted by the best positive's rank, then by the lead over the next image.
        ranks = result.ranking.ranks
        self._matched = (ranks > 0).any(axis=1)
        self._rank = np.where(self._matched, ranks[:, 0], np.iinfo(np.int32).max)
        scores = result.ranking.scores
        self._lead = scores[:, 0] - scores[:, min(1, scores.shape[1] - 1)]

    def sections(self) -> list[dict[str, Any]]:
        """Returns a random sample, then each protocol's best and worst queries."""
        rng = np.random.default_rng(0)
        matched = np.flatnonzero(self._matched)
        sample = rng.permutation(matched)[:_SAMPLE]
        sections = [{"title": "Drawn at random", "queries": self._queries(sample)}]
        for subset in self._result.subsets:
            chosen = np.flatnonzero(subset.queries & self._matched)
            order = chosen[np.lexsort((-self._lead[chosen], self._rank[chosen]))]
            best, worst = order[:_EXAMPLES], order[_EXAMPLES:][::-1][:_EXAMPLES]
            for kind, queries in (("best", best), ("worst", worst)):
                if len(queries):
                    sections.append(
                        {
                            "title": f"{subset.title}: {kind} queries",
                            "queries": self._queries(queries),
                        }
                    )
        return sections

    def _queries(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        return [self._query(int(number)) for number in numbers]

    def _query(self, number: int) -> dict[str, Any]:
        result, index = self._result, self._split.index
        row = int(self._protocol.query_rows[number])
        right = self._protocol.positives[number]
        missed = int(self._protocol.gallery_rows[right[0]])
        matches = []
        for column, place in enumerate(result.ranking.indices[number, :_MATCHES]):
            if place < 0:  # its gallery has no more images
                break
            match = int(self._protocol.gallery_rows[place])
            matches.append(
                {
                    "picture": self._picture(match),
                    "right": bool(place in right),
                    "score": f"{result.ranking.scores[number, column]:.2f}",
                    "name": str(index.photo_id[match]),
                }
            )
        rank = int(self._rank[number])
        return {
            "picture": self._picture(row),
            "name": str(index.photo_id[row]),
            "flags": self._flags(row),
            "rank": rank,
            "matches": matches,
            "missed": None if rank <= len(matches) else self._picture(missed),
        }

    def _flags(self, row: int) -> str:
        index = self._split.index
        flags = [VIEWS[index.view[row]] if index.view[row] >= 0 else ""]
        flags += ["occluded"] * int(index.occluded[row] == 1)
        flags += ["cropped"] * int(index.cropped[row] == 1)
        return ", ".join(flag for flag in flags if flag)

    def _picture(self, row: int) -> str:
        """Returns the image as a data URI, its box outlined."""
        if row not in self._pictures:
            picture = Image.fromarray(self._split.picture(row))
            left, top, right, bottom = (float(v) for v in self._split.index.box[row])
            scale = min(_THUMBNAIL / max(picture.size), 1.0)
            size = (
                max(round(picture.width * scale), 1),
                max(round(picture.height * scale), 1),
            )
            whole = right - left >= picture.width and bottom - top >= picture.height
            picture = picture.resize(size, Image.Resampling.LANCZOS)
            if not whole:
                box = [left * scale, top * scale, right * scale - 1, bottom * scale - 1]
                ImageDraw.Draw(picture).rectangle(box, outline=(255, 196, 0))
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=80)
            data = base64.b64encode(stream.getvalue()).decode()
            self._pictures[row] = f"data:image/jpeg;base64,{data}"
        return self._pictures[row]
