"""What must be known of a trained model beside the model itself, so that it can be exported and trained on.

``as_dict`` is the form in which it lies on disk, as ``model.json`` in a run and as ``modelyard.json`` in an export.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from services.worker.training.compiling import Compiled
from services.worker.training.data.record import InputKind, Task, TrainingData
from services.worker.training.data.table import Column
from services.worker.training.heads import Head
from services.worker.training.pixels import Pixels

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Input and output of a model with one of each.

    Attributes:
        input_shape: of one row; ``input_dtype`` is that of the data's rows, the model itself takes float32.
        largest_value: of a pixel: 255 for bytes. 1 for what is no image.
        logits: the outputs are logits, which an export turns into probabilities.
        outputs: numbers in one answer.
        data: where the rows came from: ``source`` and ``fingerprint``.
    """

    task: Task
    classes: list[str] | None
    input_kind: InputKind
    input_shape: tuple[int, ...]
    input_dtype: str
    columns: list[str] | None
    largest_value: float
    logits: bool
    outputs: int
    data: dict[str, Any]
    table: tuple[Column, ...] | None = None  # of rows that are columns of several kinds
    pixels: Pixels | None = None  # how encoded images became the data's rows

    @property
    def input_alias(self) -> str:
        """The name of the input, in the model and in its signatures."""
        return "image" if self.input_kind == "image" else "features"

    @property
    def output_alias(self) -> str:
        """The name of the output."""
        return "probabilities" if self.classes is not None else "value"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "format": FORMAT,
            "task": self.task,
            "classes": self.classes,
            "input": {
                "kind": self.input_kind,
                "shape": list(self.input_shape),
                "dtype": self.input_dtype,
                "columns": self.columns,
                "largest_value": self.largest_value if self.input_kind == "image" else None,
            },
            "outputs": self.outputs,
            "outputs_were_logits": self.logits,
            "data": self.data,
            "table": [column.as_dict() for column in self.table] if self.table is not None else None,
            "pixels": asdict(self.pixels) if self.pixels is not None else None,
        }


def of_training(data: TrainingData, head: Head, compiled: Compiled) -> ModelFacts:
    """The facts of a model that is trained on ``data``."""
    return ModelFacts(
        task=data.task,
        classes=data.classes,
        input_kind=data.input_kind,
        input_shape=data.input_shape,
        input_dtype=str(data.train.x.dtype),
        columns=data.columns,
        largest_value=data.pixel_scale if data.input_kind == "image" else 1.0,
        logits=compiled.logits,
        outputs=head.units,
        data={"source": data.source, "fingerprint": data.fingerprint},
        table=data.table,
        pixels=data.pixels,
    )


def from_dict(data: dict[str, Any]) -> ModelFacts:
    """What ``as_dict`` gave.

    Raises:
        KeyError, TypeError, ValueError: it is not that, or of another format.
    """
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']} is not {FORMAT}")
    row = data["input"]
    return ModelFacts(
        task=data["task"],
        classes=data["classes"],
        input_kind=row["kind"],
        input_shape=tuple(int(size) for size in row["shape"]),
        input_dtype=str(row["dtype"]),
        columns=row["columns"],
        largest_value=float(row["largest_value"] or 1.0),
        logits=bool(data["outputs_were_logits"]),
        outputs=int(data["outputs"]),
        data=dict(data["data"]),
        table=tuple(map(Column.from_dict, data["table"])) if data.get("table") else None,
        pixels=Pixels(**data["pixels"]) if data.get("pixels") else None,
    )
