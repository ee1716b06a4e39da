"""Writes the result page: metrics, and queries with their first results."""

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
from grnet_jax.metrics import MAX_ECE, MIN_RESULTS, Calibration
from grnet_jax.visualization.chosen_pairs import best_matches
from grnet_jax.visualization.drawing import INK, PAPER
from grnet_jax.visualization.explanation_page import PAGE, has_explanations
from grnet_jax.visualization.plots import plot_scores
from grnet_jax.visualization.templating import picture_tag, render
from input_pipeline import VIEWS, write_file

_EXAMPLES = 4  # best and worst queries of each protocol
_SAMPLE = 8  # queries drawn at random, so that the page does not show extremes only
_MATCHES = 8  # gallery images shown for a query
_THUMBNAIL = 160  # pixels, the longer side


def write_result_page(
    directory: epath.Path, result: RetrievalResult, model: str, step: int, explain: str = ""
) -> str:
    """Writes `results.html`, one file with its pictures inside, and returns its path.

    Args:
      directory: where to.
      result: whose protocol has the images.
      model: its name.
      step: of the checkpoint.
      explain: the command that writes the page of explanations; "" for none. A page of this
        checkpoint that is in the directory is linked.
    """
    shown, reason = shows_probabilities(result.metrics["all"].best_match)
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
        sections=_Examples(result, shown).sections(),
        probabilities=reason,
        explain=explain,
        explained=bool(explain) and has_explanations(directory, model, step),
        explanations=PAGE,
    )
    path = directory / "results.html"
    write_file(path, page)
    return str(path)


def shows_probabilities(best: Calibration | None) -> tuple[bool, str]:
    """Returns whether probabilities are shown, and why in words.

    Args:
      best: calibration of the best matches; None without probabilities.
    """
    if best is None:
        return False, ""
    error = best.values["ece"]
    if best.results < MIN_RESULTS:
        return False, f"Probabilities are shown from {MIN_RESULTS} queries on."
    measured = f"The expected calibration error of first matches is {100 * error:.1f} points"
    if error > MAX_ECE:
        return False, f"{measured}: too large (over {100 * MAX_ECE:.0f}) to show probabilities."
    return True, f"{measured}: items have their probability, too."


class _Examples:
    """Chooses queries and prepares them for the template."""

    def __init__(self, result: RetrievalResult, probabilities: bool):
        self._result = result
        self._probabilities = probabilities
        self._protocol = result.protocol
        self._split = result.protocol.images
        self._thumbnails: dict[int, Image.Image] = {}
        # Sorted by the best positive's rank, then by the lead over the next image.
        ranks = result.ranking.ranks
        self._matched = (ranks > 0).any(axis=1)
        self._rank = np.where(self._matched, ranks[:, 0], np.iinfo(np.int32).max)
        scores = result.ranking.scores
        self._lead = scores[:, 0] - scores[:, min(1, scores.shape[1] - 1)]

    def sections(self) -> list[dict[str, Any]]:
        """Returns a random sample, then each protocol's best and worst queries."""
        rng = np.random.default_rng(0)
        sample = rng.permutation(np.flatnonzero(self._matched))[:_SAMPLE]
        shown = [("Drawn at random, best first", sample[np.argsort(self._rank[sample])])]
        for subset in self._result.subsets:
            chosen = np.flatnonzero(subset.queries & self._matched)
            order = chosen[np.lexsort((-self._lead[chosen], self._rank[chosen]))]
            best, worst = order[:_EXAMPLES], order[_EXAMPLES:][::-1][:_EXAMPLES]
            shown += [(f"{subset.title}: best queries", best)]
            shown += [(f"{subset.title}: worst queries", worst)]
        return [
            {"title": title, "queries": [self._query(int(number)) for number in numbers]}
            for title, numbers in shown
            if len(numbers)
        ]

    def _query(self, number: int) -> dict[str, Any]:
        matches = []
        for rank, (row, score, right) in enumerate(best_matches(self._result, number, _MATCHES), 1):
            words = f"rank {rank}", "the same item" if right else "not the same item"
            sure = self._probability(number, rank - 1)
            match = {"right": right, "rank": rank, "score": f"{score:.2f}", "probability": sure}
            matches.append(self._photo(row, "shop", *words) | match)
        rank, missed = int(self._rank[number]), None
        if rank > len(matches):
            row = int(self._protocol.gallery_rows[self._protocol.positives[number, 0]])
            missed = self._photo(row, "shop", f"rank {rank}", "the same item")
        row = int(self._protocol.query_rows[number])
        query = self._photo(row, "customer", *self._flags(row))
        note = ", ".join(word for word in (query["category"], *self._flags(row)) if word)
        return query | {"note": note, "rank": rank, "matches": matches, "missed": missed}

    def _probability(self, number: int, place: int) -> str:
        found = self._result.probabilities
        if not (self._probabilities and found and found.there[number, place]):
            return ""
        return f"{found.p[number, place]:.0%} the same"

    def _photo(self, row: int, domain: str, *words: str) -> dict[str, Any]:
        """Returns the picture with its alternative text, the item's name and the category's."""
        index = self._split.index
        item, number = str(index.items[index.item[row]]), index.category[row]
        category = str(index.categories[number]) if number >= 0 else ""
        said = [f"{domain} photo of item {item}", category, *words]
        alt = ", ".join(word for word in said if word)
        return {
            "picture": picture_tag(self._thumbnail(row), alt),
            "item": item,
            "category": category,
        }

    def _flags(self, row: int) -> list[str]:
        index = self._split.index
        flags = [VIEWS[index.view[row]]] if index.view[row] >= 0 else []
        return flags + [name for name in ("occluded", "cropped") if getattr(index, name)[row] == 1]

    def _thumbnail(self, row: int) -> Image.Image:
        """Returns the image, small, its box outlined in white with a dark rim."""
        if row not in self._thumbnails:
            picture = Image.fromarray(self._split.picture(row))
            width, height = picture.size
            left, top, right, bottom = (float(edge) for edge in self._split.index.box[row])
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
            if right - left < width or bottom - top < height:
                across, down = picture.width / width, picture.height / height
                box = (left * across, top * down, right * across - 1, bottom * down - 1)
                draw = ImageDraw.Draw(picture)
                draw.rectangle(box, outline=INK, width=2)
                draw.rectangle(box, outline=PAPER)
            self._thumbnails[row] = picture
        return self._thumbnails[row]
