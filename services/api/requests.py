"""Small request bodies of the API's own; the large ones are ``shared.specs`` and ``shared.views.PredictRequest``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from shared.keys import RATE_PATTERN, Role
from shared.names import NAME_PATTERN
from shared.specs.tune import MAX_TRIALS


class RetryRequest(BaseModel):
    """Where the new job begins."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    start: Literal["checkpoint", "scratch"] = Field(
        "checkpoint", alias="from", description="From the old job's last checkpoint, if it has one, or anew."
    )


class PriorityRequest(BaseModel):
    """A job's new place among those that wait."""

    model_config = ConfigDict(extra="forbid")

    priority: int = Field(ge=-100, le=100, strict=True, description="Higher ones are taken up first.")


class ProjectRequest(BaseModel):
    """A project's limit."""

    model_config = ConfigDict(extra="forbid")

    max_running: int | None = Field(
        ge=0, le=1_000_000, strict=True, description="Jobs that may run at once; null: no limit."
    )


class DrainRequest(BaseModel):
    """How a worker is emptied."""

    model_config = ConfigDict(extra="forbid")

    now: bool = Field(
        False,
        strict=True,
        description="Its jobs write a checkpoint and go back to the queue, rather than end.",
    )


class ContinueRequest(BaseModel):
    """How an ended study goes on."""

    model_config = ConfigDict(extra="forbid")

    max_trials: int | None = Field(
        None,
        ge=1,
        le=MAX_TRIALS,
        strict=True,
        description="Trials more. Null: as many as before; of a grid, all combinations that are left.",
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


class KeyLimits(BaseModel):
    """Of one key; left out: as its role has it."""

    model_config = ConfigDict(extra="forbid")

    requests: str | None = Field(None, pattern=RATE_PATTERN, examples=["600/minute"])
    predictions: str | None = Field(None, pattern=RATE_PATTERN, examples=["6000/minute"])
    max_body_mb: int | None = Field(None, ge=1, le=1_000_000, strict=True)
    max_upload_mb: int | None = Field(None, ge=1, le=1_000_000, strict=True)


class KeyRequest(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    name: str = Field(
        "unnamed",
        min_length=1,
        max_length=120,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        examples=["ci"],
        description="Whose it is, or what for.",
    )
    project: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="The only project whose jobs it may submit and change. Not with the role admin.",
    )
    expires_in_seconds: int | None = Field(
        None, ge=1, le=10 * 366 * 86_400, strict=True, description="Left out: it does not expire."
    )
    limits: KeyLimits = Field(default_factory=KeyLimits)

    @field_validator("project")
    @classmethod
    def _not_an_admins(cls, project: str | None, info: ValidationInfo) -> str | None:
        if project is not None and info.data.get("role") is Role.ADMIN:
            raise ValueError(
                "an admin is not held to one project, since it can make other keys; use the role developer"
            )
        return project


class SessionRequest(BaseModel):
    """A browser logs in."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(max_length=200)
