"""``assets.extra/modelyard.json`` in an export: what a reader of the SavedModel can't find in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from services.worker.training.data.record import TrainingData

FORMAT = 1
# SavedModel keeps this folder's name free for whoever deploys; TensorFlow Serving looks here for warm-up requests
FOLDER = "assets.extra"


def write(export_dir: Path, data: TrainingData, **facts: Any) -> None:
    """Write the manifest; ``facts`` are added as they are."""
    content = {
        "format": FORMAT,
        "task": data.task,
        "classes": data.classes,
        "input": {
            "kind": data.input_kind,
            "shape": list(data.input_shape),
            "columns": data.columns,
            "largest_value": data.pixel_scale if data.input_kind == "image" else None,
        },
        "data": {"source": data.source, "fingerprint": data.fingerprint},
        **facts,
    }
    folder = export_dir / FOLDER
    folder.mkdir(exist_ok=True)
    with (folder / "modelyard.json").open("w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
