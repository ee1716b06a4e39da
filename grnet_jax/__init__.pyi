from .detect.loading import load_detector
from .export.reading import load_exported
from .inference import load
from .search.ranking import RankingResult, SearchResult

__version__: str
__all__ = ["RankingResult", "SearchResult", "__version__", "load", "load_detector", "load_exported"]
