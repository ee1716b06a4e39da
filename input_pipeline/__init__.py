"""Data sets of street and shop images, and batches of them: the names that other packages use.

They stand in `__init__.pyi`; each is imported when it is first used. Only the batches import
TensorFlow: opening a data set, its index and its images need none.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
