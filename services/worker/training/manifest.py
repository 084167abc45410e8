"""``assets.extra/modelyard.json`` in an export: what a reader of the SavedModel can't find in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from services.worker.training.model_facts import ModelFacts

# SavedModel keeps this folder's name free for whoever deploys; TensorFlow Serving looks here for warm-up requests
FOLDER = "assets.extra"


def write(export_dir: Path, facts: ModelFacts, **more: Any) -> None:
    """Write the manifest; ``more`` is added as it is."""
    folder = export_dir / FOLDER
    folder.mkdir(exist_ok=True)
    with (folder / "modelyard.json").open("w") as file:
        json.dump({**facts.as_dict(), **more}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
