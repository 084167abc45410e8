"""What is left of a trial on disk once a better one is known."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path


def discard_model(run_dir: Path) -> None:
    """Remove the trained weights and the checkpoints; event files, log and spec stay. Missing files are no error."""
    with contextlib.suppress(OSError):
        (run_dir / "kept" / "model.keras").unlink(missing_ok=True)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
