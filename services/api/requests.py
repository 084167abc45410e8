"""Small request bodies of the API's own; the large ones are ``shared.specs`` and ``shared.views.PredictRequest``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RetryRequest(BaseModel):
    """Where the new job begins."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    start: Literal["checkpoint", "scratch"] = Field(
        "checkpoint", alias="from", description="From the old job's last checkpoint, if it has one, or anew."
    )


class RollbackRequest(BaseModel):
    """What shall go back."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(
        None,
        examples=["stable"],
        description="Goes back to what it was before. Left out: 'stable', or the only label; a model without labels "
        "goes back by its default version.",
    )
    version: int | None = Field(
        None, ge=1, strict=True, description="To this version, rather than to the one before."
    )
