"""When the state of training is written, and which of what was written is kept."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from shared.specs.base import Spec

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(s|m|h)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: str) -> str:
    found = _DURATION.fullmatch(value)
    if found is None or float(found[1]) <= 0:
        raise ValueError("must be 'epoch', a number of steps, or a time such as '30s', '10m' or '1h'")
    return value


class BestSpec(Spec):
    """Which checkpoint is the best: by a metric at an epoch's end."""

    monitor: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="Null: val_loss, or loss without validation rows."
    )
    mode: Literal["auto", "min", "max"] = Field("auto", description="auto: by the metric's own direction.")


def _from_monitor(value: Any) -> Any:
    return {"monitor": value} if isinstance(value, str) else value


class CheckpointSpec(Spec):
    """When the state of training is written, so that a lost attempt goes on from there.

    The end of training is always written.
    """

    every: Literal["epoch"] | int | Annotated[str, AfterValidator(_duration)] = Field(
        "epoch", description="'epoch', a number of steps, or a time: '30s', '10m', '1h'."
    )
    keep: int = Field(2, ge=1, le=1000, description="Newest checkpoints kept.")
    best: Annotated[BestSpec, BeforeValidator(_from_monitor)] | None = Field(
        BestSpec(),
        description="The best one is kept beside them, written at its epoch's end. Null: it is not.",
    )

    @field_validator("every")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 'epoch' or at least 1")
        return value

    @property
    def every_steps(self) -> int | None:
        """Steps between two checkpoints, if they are counted."""
        return self.every if isinstance(self.every, int) else None

    @property
    def every_seconds(self) -> float | None:
        """Seconds between two checkpoints, if it goes by time."""
        found = _DURATION.fullmatch(self.every) if isinstance(self.every, str) else None
        return float(found[1]) * _UNITS[found[2]] if found else None
