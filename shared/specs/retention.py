"""What may go: the rules of a clean-up."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from shared.specs.base import Spec

Days = Annotated[float, Field(ge=0, le=36_500, description="Only what is older than so many days.")]


class CheckpointRule(Spec):
    """Checkpoints of jobs that have ended."""

    older_than_days: Days
    keep: int = Field(1, ge=0, le=1000, description="The newest so many of each job stay, and its best one.")


class EventFileRule(Spec):
    """TensorBoard's event files of jobs that have ended."""

    older_than_days: Days


class VersionRule(Spec):
    """Published versions, beyond the newest of each model."""

    keep: int = Field(ge=1, le=100_000, description="The newest so many of each model stay.")
    older_than_days: Days = 0


class JobRule(Spec):
    """Jobs that have ended, with their events, metrics and run folder; a study goes with its trials."""

    older_than_days: Days


class RetentionPolicy(Spec):
    """What a clean-up removes. A part that is left out is not touched.

    Whatever the rules say, these stay: a version that a label leads to, that is the default or the newest of its
    model; whatever a queued or running job has, goes on from, or begins with; the job of a version that is still there.
    """

    checkpoints: CheckpointRule | None = None
    event_files: EventFileRule | None = None
    versions: VersionRule | None = None
    jobs: JobRule | None = None

    @model_validator(mode="after")
    def _something(self) -> RetentionPolicy:
        if not any((self.checkpoints, self.event_files, self.versions, self.jobs)):
            raise ValueError("name at least one of: checkpoints, event_files, versions, jobs")
        return self
