"""Explains the scores of a trained run by Grad-CAM and the strongest region pairs; plots metrics.

    python -m grnet_jax.visualization --workdir=runs/demo
    python -m grnet_jax.visualization --workdir=runs/demo --query=PHOTO_ID --gallery=PHOTO_ID
    python -m grnet_jax.visualization --workdir=runs/demo --photos street.jpg shop.jpg \\
        --boxes 210,95,640,1180 whole

    python -m grnet_jax.visualization --workdir=runs/fashionnet_synthetic --plots
    python -m grnet_jax.visualization --workdir=runs/demo --matches=matches.png --queries=4

The last draws queries with their best matches. --plots draws the metrics that eval.py wrote: top-k
accuracy by view, scale and category of the query, and each attribute's recall. The others write
explanations.html, of photos of the run's own data set or, without a data set and TensorFlow, of two
files.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from grnet_jax.errors import ArgumentParser, InputError, check_at_least, parse_box
from grnet_jax.evaluation.protocols import build_protocol
from grnet_jax.evaluation.retrieval import RetrievalEvaluator, RetrievalResult
from grnet_jax.runtime import session
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import Run, restore_matcher
from grnet_jax.training.state import TrainState
from grnet_jax.visualization.chosen_pairs import (
    ChosenPair,
    best_matches,
    choose_queries,
    load_images,
    named_pair,
    pairs_of_query,
)
from grnet_jax.visualization.explanation_page import ExplainedPair, Section, write_explanations
from grnet_jax.visualization.explanations import CroppedImage, Explainer, crop_image
from grnet_jax.visualization.plots import plot_matches, write_figure, write_plots
from input_pipeline import (
    VIEWS,
    Box,
    ImageConfig,
    build_transform,
    check_box,
    check_folder,
    load_image,
    to_path,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MATCHES = 6  # gallery images drawn beside a query
# Queries ranked per query shown, so that there are right and wrong answers among them.
_RANKED = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    with session():
        if options.photos and (options.query or options.gallery):
            raise InputError("--photos and --query/--gallery: only one can be given")
        check_at_least("--top", options.top, 1)
        if bool(options.query) != bool(options.gallery):
            raise InputError("--query and --gallery: one was given, both are needed")
        output = to_path(options.output or options.workdir, "--output")
        check_folder(output)
        if options.plots:
            if jax.process_index() == 0:
                written = write_plots(to_path(options.workdir, "--workdir"), output)
                print("\n".join(f"Wrote {path}" for path in written))
            return 0
        run, state = restore_matcher(options.workdir, make_mesh())
        if options.matches:
            figure = _draw_matches(run, state, options)
            if jax.process_index() == 0:
                print(f"Wrote {write_figure(figure, to_path(options.matches, '--matches'))}")
            return 0
        explainer = Explainer(run.matcher, state.variables, options.top)
        if options.photos:
            sections, source = _explain_files(run, explainer, options.photos, options.boxes)
        else:
            sections, source = _explain_dataset(run, state, explainer, options)
        if jax.process_index() == 0:
            page = write_explanations(
                output,
                sections,
                model=run.config.name,
                step=int(state.step),
                source=source,
            )
            print(f"Wrote {page}\nNext: open {page} in a browser")
    return 0


def _explain_files(
    run: Run, explainer: Explainer, paths: Sequence[str], boxes: Sequence[Box | None] | None
) -> tuple[list[Section], str]:
    """Returns a section for the pair of files, and the source in words."""
    config = run.config.image
    images = []
    for path, box, shop in zip(paths, boxes or (None, None), (False, True), strict=True):
        transform = build_transform(config, shop)
        if box is not None and not transform.takes_boxes:
            raise InputError("--boxes: this matcher was trained without (image.crop, shop_crop)")
        image = load_image(path)
        if box is not None:
            check_box(box, image, f"--boxes: that of {path}")
        images.append(crop_image(path, image, box, transform))
    query, gallery = images
    pair = ExplainedPair("This pair", None, query, gallery, explainer.explain(query, gallery))
    return [Section(f"{query.name} and {gallery.name}", [pair])], "Photos from files."


def _explain_dataset(
    run: Run, state: TrainState, explainer: Explainer, options: argparse.Namespace
) -> tuple[list[Section], str]:
    """Returns a section per query of the run's data set, and how they were chosen in words."""
    config, split = run.config, options.split or run.config.eval.protocol.split
    dataset = _load_dataset(run, options)
    if options.query:
        images = dataset.split(split)
        pair = named_pair(images.index, options.query, options.gallery)
        section = _section(explainer, images, config.image, [pair], "")
        return [section], f"A pair of {dataset.title}, {split} split."

    result = _rank_queries(run, state, dataset, options)
    ranked, sections = result.protocol, []
    for number in choose_queries(result.ranking.ranks, options.queries, options.seed):
        pairs = pairs_of_query(result, int(number))
        answered = "answered correctly" if len(pairs) == 1 else "answered wrongly"
        sections.append(_section(explainer, ranked.images, config.image, pairs, answered))
    return sections, (
        f"Queries of {dataset.title}, {split} split, drawn with seed {options.seed}: half of them "
        "with the item found first, half with another where there are as many. "
        f"{ranked.describe()}"
    )


def _load_dataset(run: Run, options: argparse.Namespace) -> Any:
    from input_pipeline import load_dataset  # the pipeline is loaded only where it is used

    given = {"source": options.source, "dir": options.data_dir}
    given = {name: value for name, value in given.items() if value is not None}
    return load_dataset(run.config.dataset.model_copy(update=given))


def _rank_queries(
    run: Run, state: TrainState, dataset: Any, options: argparse.Namespace
) -> RetrievalResult:
    """Ranks more queries than are shown, drawn from those with a match."""
    config = run.config
    split = options.split or config.eval.protocol.split

    def protocol(queries: str) -> Any:
        fields = {"split": split, "queries": queries, "rank_items": ""}
        chosen = config.eval.protocol.model_copy(update=fields)
        return build_protocol(dataset, config.image, chosen)

    check_at_least("--queries", options.queries, 1)
    check_at_least("--seed", options.seed, 0)
    matched = int((protocol("").positives >= 0).any(axis=1).sum())
    ranked = protocol(f"{min(matched, _RANKED * options.queries)},{options.seed}")
    scratch = str(to_path(options.output or options.workdir, "--output") / "features-tmp")
    evaluator = RetrievalEvaluator(config, run.matcher, run.mesh, ranked, scratch=scratch)
    return evaluator.run(state.variables)


def _draw_matches(run: Run, state: TrainState, options: argparse.Namespace) -> "Figure":
    """Draws queries of the run's data set, each with its best matches."""
    result = _rank_queries(run, state, _load_dataset(run, options), options)
    images = result.protocol.images

    def cell(row: int, first: str, right: bool = False) -> tuple[np.ndarray, str, bool]:
        item = images.index.items[images.index.item[row]]
        return images.picture(row), f"{first}\n{item}", right

    rows = []
    for number in choose_queries(result.ranking.ranks, options.queries, options.seed):
        cells = [cell(int(result.protocol.query_rows[number]), "query")]
        for rank, (row, _, right) in enumerate(best_matches(result, int(number), _MATCHES), 1):
            cells.append(cell(row, f"{rank} ✓" if right else str(rank), right))
        rows.append(cells)
    title = f"{run.config.name}: queries and what was found first; ✓ and a frame: the same item"
    return plot_matches(rows, title)


def _section(
    explainer: Explainer, split: Any, config: ImageConfig, pairs: Sequence[ChosenPair], note: str
) -> Section:
    """Loads and explains a query's pairs; the title has the query's annotations."""
    query = load_images(split, config, [pairs[0].query])[0]
    explained = [
        _explain(explainer, query, gallery, pair)
        for pair in pairs
        for gallery in load_images(split, config, [pair.gallery])
    ]
    index, row = split.index, pairs[0].query
    known = [note, VIEWS[index.view[row]] if index.view[row] >= 0 else ""]
    known += [name for name in ("occluded", "cropped") if getattr(index, name)[row] == 1]
    if index.category[row] >= 0:
        known.insert(1, str(index.categories[index.category[row]]))
    return Section(f"{query.name}: {', '.join(word for word in known if word)}", explained)


def _explain(
    explainer: Explainer, query: CroppedImage, gallery: CroppedImage, pair: ChosenPair
) -> ExplainedPair:
    caption = f"{pair.caption} ({gallery.name})"
    return ExplainedPair(caption, pair.right, query, gallery, explainer.explain(query, gallery))


def _box(text: str) -> Box | None:
    """Parses a box of the command line, or "whole"."""
    return None if text == "whole" else parse_box(text)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.visualization", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--workdir", required=True, help="folder or bucket of the trained run")
    add("--output", default="", help="where to write (the workdir)")
    add("--plots", action="store_true", help="plot the metrics that eval.py wrote to the workdir")
    add("--matches", default="", help="only draw queries with their best matches, into this file")
    add("--split", default="", help="whose queries are shown (the run's eval.protocol.split)")
    add("--queries", type=int, default=8, help="how many (8)")
    add("--seed", type=int, default=0, help="of their drawing (0)")
    add("--query", default="", help="name of a customer photo of the split, with --gallery")
    add("--gallery", default="", help="name of a shop photo of the split")
    add("--photos", nargs=2, metavar=("QUERY", "GALLERY"), help="two photo files")
    add("--boxes", nargs=2, type=_box, metavar="X_1,Y_1,X_2,Y_2", help='of --photos, or "whole"')
    add("--top", type=int, default=5, help="strongest region pairs to show (5)")
    add("--config.dataset.source", dest="source", help="where it lies now (as in training)")
    names = "--config.dataset.dir", "--data_dir"
    add(*names, dest="data_dir", help="where prepared data sets lie (as in training)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
