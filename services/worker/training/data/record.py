"""The one form in which all kinds of data reach training. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
InputKind = Literal["image", "tabular", "tensor"]
Task = Literal["classification", "regression"]


class Rows(NamedTuple):
    """Inputs [N, ...] and targets: int32 [N] for classes, float32 [N] or [N, D] for regression."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Rows in memory (or memory-mapped), and what is known about them.

    Images are [N, height, width, channels], as their source has them: no scaling, that is the model's part.
    ``validation`` is what each epoch is measured on; where the data have none of their own, it is ``test``.
    """

    train: Rows
    validation: Rows | None
    test: Rows | None
    task: Task
    input_kind: InputKind
    classes: list[str] | None
    columns: list[str] | None
    fingerprint: str  # "sha256:..." of the file, or of the decoded arrays
    source: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(int(size) for size in self.train.x.shape[1:])

    @property
    def pixel_scale(self) -> float:
        """The largest value that a pixel has: 255 for bytes, else the largest in the training rows (1 at least)."""
        if self.train.x.dtype == np.uint8:
            return 255.0
        return max(1.0, float(np.max(np.abs(self.train.x))))

    def facts(self) -> dict[str, Any]:
        """What the job shows about its data."""
        return {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "task": self.task,
            "input_kind": self.input_kind,
            "input_shape": list(self.input_shape),
            "input_dtype": str(self.train.x.dtype),
            "rows": {
                "train": len(self.train),
                "validation": len(self.validation) if self.validation is not None else 0,
                "test": len(self.test) if self.test is not None else 0,
            },
            "classes": len(self.classes) if self.classes is not None else None,
        }
