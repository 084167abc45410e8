"""A job's settings as one flat row, to be compared with other jobs' in TensorBoard's HParams dashboard."""

from __future__ import annotations

from typing import Any

from shared.specs import TrainJob

MAX_TEXT = 60
_NOT_SETTINGS = frozenset(
    {"kind", "name", "labels", "checkpoint", "tensorboard", "publish", "retry", "preflight"}
)
# what else of a job is too long to be read in a table
_TOO_LONG = frozenset({"keras_config", "callbacks"})


def of(job: TrainJob, optimizer: str, learning_rate: float) -> dict[str, bool | float | int | str]:
    """Dotted names and plain values of what was chosen: all that is not a default, and what is always of interest."""
    chosen = {
        name: value
        for name, value in job.model_dump(mode="json", exclude_defaults=True).items()
        if name not in _NOT_SETTINGS
    }
    row: dict[str, bool | float | int | str] = {
        "fit.epochs": job.fit.epochs,
        "fit.batch_size": job.fit.batch_size,
        "fit.seed": job.fit.seed,
        "fit.optimizer": optimizer,
        "fit.learning_rate": learning_rate,
        **(
            {"fit.callbacks": ", ".join(item.name for item in job.fit.callbacks)} if job.fit.callbacks else {}
        ),
    }
    _flatten("", chosen, row)
    return row


def _flatten(path: str, value: Any, row: dict[str, bool | float | int | str]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if name not in _TOO_LONG:
                _flatten(f"{path}.{name}" if path else name, item, row)
    elif isinstance(value, list):
        row.setdefault(path, _cut(", ".join(str(item) for item in value)))
    elif isinstance(value, str):
        row.setdefault(path, _cut(value))
    elif value is not None:
        row.setdefault(path, value)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
