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


class LabelRequest(BaseModel):
    """What a label shall point at."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, strict=True, examples=[3], description="An AVAILABLE version of the model.")
