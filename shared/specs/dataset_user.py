"""Data that code of the user's own makes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from shared.names import NAME_PATTERN
from shared.specs.dataset_options import DatasetOptions


class UserDataset(DatasetOptions):
    """What ``make_dataset(params)`` of the user's own builder makes, kept as rows on disk (docs/user-code.md)."""

    builder: str = Field(pattern=NAME_PATTERN, description="Name of a builder; GET /builders lists them.")
    params: dict[str, Any] = Field({}, description="Handed to make_dataset.")
    rows: int | None = Field(
        None, ge=1, description="At most so many rows of each split; needed for an endless tf.data.Dataset."
    )
    batched: bool | None = Field(
        None, description="Whether an element of a tf.data.Dataset is a batch; null: told by its shapes."
    )
    test_split: float = Field(
        0.0, ge=0.0, lt=1.0, description="Fraction of rows kept for evaluation, by the seed."
    )
    task: Literal["auto", "classification", "regression"] = Field(
        "auto", description="auto: few whole numbers as targets are classes."
    )
