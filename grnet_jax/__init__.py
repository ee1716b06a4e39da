"""Fashion image retrieval in JAX: from a street photo to the same garment in a shop's catalogue.

    matcher = grnet_jax.load("runs/grnet_synthetic")
    query = matcher.embed(["street.jpg"])
    gallery = matcher.embed(["shop_1.jpg", "shop_2.jpg"])
    found = matcher.search(query, gallery, top_k=2)  # found.indices [1, 2], found.scores
    scores = matcher.score(query, gallery)  # [1, 2], higher is more alike

Importing this, and all of the above, needs no TensorFlow.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["RankingResult", "SearchResult", "__version__", "load", "load_exported"]


def load(workdir: str) -> Any:
    """The trained matcher of the run in `workdir`: see `grnet_jax.inference.LoadedMatcher`."""
    from grnet_jax.inference import load as load_matcher  # keeps `import grnet_jax` light

    return load_matcher(workdir)


def load_exported(path: str) -> Any:
    """What `python -m grnet_jax.export` wrote: see `grnet_jax.export.reading.ExportedMatcher`."""
    from grnet_jax.export.reading import load_exported as read  # keeps `import grnet_jax` light

    return read(path)


def __getattr__(name: str) -> Any:
    """Imports the classes of results when they are first asked for."""
    if name in ("RankingResult", "SearchResult"):
        from grnet_jax.search import ranking

        return getattr(ranking, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
