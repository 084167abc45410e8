"""``fit.class_weight`` as the vector that the steps weigh losses with."""

from __future__ import annotations

import numpy as np

from services.worker.training.data.record import Array, TrainingData
from services.worker.training.failures import data_invalid
from shared.specs import FitSpec


def class_weights(fit: FitSpec, data: TrainingData) -> Array | None:
    """float32 [classes]; None where all count alike.

    ``balanced`` is rows / (classes * rows of the class), over the training rows, as scikit-learn has it; a class
    without training rows counts 1.

    Raises:
        TrainingFailed: data_invalid: no classes, or not such ones.
    """
    asked = fit.class_weight
    if asked is None:
        return None
    if data.classes is None:
        raise data_invalid("fit.class_weight is for classes, but the targets are numbers", "Leave it out.")
    count = len(data.classes)
    if asked == "balanced":
        rows = np.bincount(data.train.y, minlength=count)
        present = rows > 0
        return np.where(present, len(data.train) / (present.sum() * np.maximum(rows, 1)), 1.0).astype(
            np.float32
        )
    found = np.ones(count, np.float32)
    for name, weight in asked.items():
        found[_number(name, data.classes)] = weight
    if not found[np.unique(data.train.y)].any():
        raise data_invalid(
            "fit.class_weight gives every class that has rows the weight 0: nothing would be learned"
        )
    return found


def _number(name: str, classes: list[str]) -> int:
    if name in classes:
        return classes.index(name)
    if name.isascii() and name.isdigit() and int(name) < len(classes):
        return int(name)
    raise data_invalid(
        f"fit.class_weight names {name!r}, which is neither a class nor a class number",
        f"The classes are {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}, numbered from 0.",
    )
