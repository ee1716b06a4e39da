"""The papers whose tables can be run, a file each."""

from collections.abc import Mapping

from grnet_jax.errors import InputError
from benchmarks.reproduce import fashionnet, fir, grnet, kucer
from benchmarks.reproduce.tables import Paper

PAPERS: Mapping[str, Paper] = {
    paper.name: paper for paper in (grnet.PAPER, fir.PAPER, kucer.PAPER, fashionnet.PAPER)
}


def find_paper(name: str) -> Paper:
    """The paper of that name.

    Raises:
      InputError: naming the papers there are.
    """
    if name not in PAPERS:
        raise InputError(f"PAPER: {name!r} is none of {list(PAPERS)}")
    return PAPERS[name]
