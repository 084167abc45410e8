"""TensorFlow's and TensorFlow Serving's message classes, without TensorFlow.

``tensorflow.core...`` holds generated modules that need nothing but protobuf. Importing one the usual way runs
``tensorflow/__init__.py`` first, which costs seconds and hundreds of megabytes. Meanwhile an empty package with the
same search path stands in for it; the modules stay when it is gone, and TensorFlow itself, imported later, uses them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

# Held while TensorFlow is being imported, too: nobody else may meet the stand-in.
import_lock = threading.RLock()


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Around imports of message modules. Does nothing where TensorFlow is loaded already, or not installed."""
    with import_lock:
        spec = None if "tensorflow" in sys.modules else find_spec("tensorflow")
        if spec is None or spec.submodule_search_locations is None:
            yield
            return
        stand_in = ModuleType("tensorflow")
        stand_in.__path__ = list(spec.submodule_search_locations)
        sys.modules["tensorflow"] = stand_in
        try:
            yield
        finally:
            del sys.modules["tensorflow"]
