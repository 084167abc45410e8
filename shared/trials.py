"""Studies and trials as the store has them. A study is what a tune job keeps of its trials; a trial is a train job.

Times are seconds since the epoch, UTC, by the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shared.jobs import JobState


class TrialStatus(StrEnum):
    """Where a trial stands in its study; its job's state says where the job stands."""

    WAITING = "waiting"  # its job is queued
    RUNNING = "running"
    COMPLETE = "complete"  # it has its values
    PRUNED = "pruned"  # ended early, since others were better
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether it stays as it is."""
        return self not in (TrialStatus.WAITING, TrialStatus.RUNNING)


class TrialSource(StrEnum):
    """Where a trial's parameters are from."""

    SAMPLER = "sampler"
    ENQUEUED = "enqueued"  # some or all of them were given with the study
    INHERITED = "inherited"  # the trial is of the study that this one continues


@dataclass(frozen=True, slots=True)
class Study:
    """A study without its trials.

    Attributes:
        id: the tune job's.
        revision: grows with each change of a trial.
        inherited: trials taken over from another study; the counts below are without them.
        asked: trials begun; those that have not ended are ``open``.
        best: number of the best trial; None while there is none, and where there are several objectives.
        attrs: what the optimiser remembers of the study.
        publisher: the export job that publishes the best trial.
        cancel_requested, state: of the tune job.
    """

    id: str
    revision: int
    inherited: int
    asked: int
    complete: int
    pruned: int
    failed: int
    cancelled: int
    best: int | None
    attrs: dict[str, Any]
    publisher: str | None
    wake_at: float | None
    cancel_requested: bool
    state: JobState

    @property
    def open(self) -> int:
        """Trials that wait or run."""
        return self.asked - self.complete - self.pruned - self.failed - self.cancelled


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial, with what is known of its job.

    Attributes:
        number: from 0; inherited trials come first.
        params: by the names in the study's space; those whose ``when`` did not hold are left out.
        values: of each objective, once complete. A pruned trial has none, but its intermediate values.
        intermediate: [[epoch, value], ...] of the first objective, epochs from 1, once ended; before that they are
            in the job's metrics.
        stop_epoch: the pruner wants it ended after this epoch.
    """

    study_id: str
    number: int
    job_id: str
    source: TrialSource
    params: dict[str, Any]
    status: TrialStatus
    values: list[float] | None
    intermediate: list[tuple[int, float]] | None
    attrs: dict[str, Any]
    stop_epoch: int | None
    asked_at: float
    told_at: float | None
    revision: int
    started_at: float | None = None
    finished_at: float | None = None
    run_dir: str | None = None
    worker_id: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to advance a study, for a short while. Every write names it; a stale one is refused (fencing)."""

    study_id: str
    token: str
    wakes: int  # how often the study had been woken when the turn began
    now: float  # by the database's clock, when it began


@dataclass(frozen=True, slots=True)
class Told:
    """How a trial ended."""

    number: int
    status: TrialStatus
    values: list[float] | None = None
    intermediate: list[tuple[int, float]] = field(default_factory=list)
