from .catalog.searching import Catalog, Match, open_catalog
from .detect.loading import load_detector
from .export.reading import load_exported
from .inference import load
from .search.ranking import RankingResult, SearchResult

__version__: str
__all__ = [
    "Catalog",
    "Match",
    "RankingResult",
    "SearchResult",
    "__version__",
    "load",
    "load_detector",
    "load_exported",
    "open_catalog",
]
