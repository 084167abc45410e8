"""The one form in which all kinds of data reach training. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from services.worker.training.data.row_file import Array, RowArray, RowFile, chunks_of
from shared.specs.dataset_options import PipelineSpec
from shared.specs.fit import KerasObject

if TYPE_CHECKING:
    from services.worker.training.data.table import Column
    from services.worker.training.pixels import Pixels

__all__ = ["Array", "InputKind", "RowArray", "RowFile", "Rows", "Task", "TrainingData"]

InputKind = Literal["image", "tabular", "tensor"]
Task = Literal["classification", "regression"]


class Rows(NamedTuple):
    """Inputs [N, ...] and targets: int32 [N] for classes, float32 [N] or [N, D] for regression.

    Inputs are an array in memory (or memory-mapped), or stay in a ``RowFile`` where memory is not to hold them all.
    """

    x: RowArray
    y: Array

    def __len__(self) -> int:
        return len(self.x)

    @property
    def on_disk(self) -> bool:
        """True when inputs are read from disk by the batch."""
        return isinstance(self.x, RowFile)

    def read(self, indices: Array) -> tuple[Array, Array]:
        """Inputs and targets of these row numbers (int64 [n]), in memory. Thread-safe."""
        x = self.x[indices] if isinstance(self.x, RowFile) else np.take(self.x, indices, axis=0)
        return x, np.take(self.y, indices, axis=0)

    def subset(self, chosen: Array) -> Rows:
        """The rows for which ``chosen`` (bool [N]) is true, in their order; on disk if these are."""
        x = self.x.subset(chosen) if isinstance(self.x, RowFile) else self.x[chosen]
        return Rows(x, self.y[chosen])


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
    table: tuple[Column, ...] | None = (
        None  # what the columns of a matrix mean, where they are not plain numbers
    )
    augment: tuple[KerasObject, ...] = ()  # layers that change rows in training only
    pixels: Pixels | None = None  # how encoded images became rows, where they did
    weights: Array | None = (
        None  # what each training row counts for in the loss, float32 [rows]; None: all alike
    )
    pipeline: PipelineSpec | None = None  # how rows are read batch by batch; None: they are kept as tensors
    notes: dict[str, Any] = field(default_factory=dict)  # what else the job shows about its data

    @property
    def rows_for_steps(self) -> Rows:
        """Training rows as the steps take them: with weights, each one lies after the row's targets, all float32."""
        if self.weights is None:
            return self.train
        y = self.train.y.reshape(len(self.train), -1).astype(np.float32)
        return Rows(self.train.x, np.concatenate([y, self.weights[:, np.newaxis]], axis=1))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(int(size) for size in self.train.x.shape[1:])

    @property
    def pixel_scale(self) -> float:
        """The largest value that a pixel has: 255 for bytes, else the largest in the training rows (1 at least)."""
        if self.train.x.dtype == np.uint8:
            return 255.0
        return max(1.0, *(float(np.max(np.abs(part))) for part in chunks_of(self.train.x)))

    @property
    def streamed(self) -> bool:
        """True when training reads its rows through tf.data rather than from tensors in memory."""
        return self.pipeline is not None

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
            "kept": "disk" if self.train.on_disk else "memory",
            **self.notes,
        }
