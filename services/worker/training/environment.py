"""What TensorFlow reads from the environment, and what it says while it loads.

``TF_ENABLE_ONEDNN_OPTS`` is left alone: without oneDNN training on CPUs is 2.5 times slower.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# Lines of C++ that say nothing about the job. They ignore TF_CPP_MIN_LOG_LEVEL, being written before logging is set up.
_BANNERS = (b"All log messages before absl::InitializeLog", b"oneDNN custom operations are on")


def quiet() -> None:
    """Hide TensorFlow's information lines; warnings and errors of its C++ parts still reach fd 2.

    Call it before the first import of tensorflow. What the operator has set wins.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("NO_GCE_CHECK", "true")  # or the first download asks for Google's metadata server


@contextlib.contextmanager
def without_banners() -> Iterator[None]:
    """Within, fd 2 is kept back; at the end all of it but the banner lines is written after all."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            for line in kept:
                if not any(banner in line for banner in _BANNERS):
                    with contextlib.suppress(OSError):
                        os.write(2, line)
