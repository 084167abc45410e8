"""A job's life: five states, one transition table, and the records that the store keeps.

What a running job is doing is its ``stage``, a label for people; asking to cancel is a flag. Neither is a state.
Times are seconds since the epoch, UTC, as floats, by the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # stored; no worker has claimed it
    RUNNING = "running"  # one worker holds the lease
    SUCCEEDED = "succeeded"  # artefact exists; if asked for, the version is AVAILABLE
    FAILED = "failed"  # stopped by the error recorded on the job
    CANCELLED = "cancelled"  # stopped because somebody asked

    @property
    def terminal(self) -> bool:
        """True when nothing follows."""
        return not TRANSITIONS[self]


TRANSITIONS: MappingProxyType[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
        JobState.RUNNING: frozenset(
            # back to QUEUED: the lease was lost, or the worker was asked to stop and gave the job back
            {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUEUED}
        ),
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELLED: frozenset(),
    }
)


class AttemptOutcome(StrEnum):
    """How one attempt at a job ended; None while it runs."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"  # the worker was not heard of for a whole lease
    RELEASED = "released"  # the worker was told to stop, and put the job back


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write about a running job. Every write names it; a stale one is refused (fencing)."""

    job_id: str
    token: str
    attempt: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job or an attempt failed, in a form a person can act on."""

    code: str
    message: str
    hint: str | None = None
    detail: str | None = None  # e.g. the tail of the log

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data without empty members."""
        data = {"code": self.code, "message": self.message, "hint": self.hint, "detail": self.detail}
        return {key: value for key, value in data.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's try at a job."""

    number: int
    worker_id: str
    started_at: float
    finished_at: float | None
    outcome: AttemptOutcome | None
    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the store has it. ``spec`` is the request as plain JSON data with defaults filled in."""

    id: str
    kind: str
    name: str | None
    state: JobState
    stage: str | None
    model: str | None
    labels: dict[str, str]
    spec: dict[str, Any]
    created_at: float
    started_at: float | None
    updated_at: float
    finished_at: float | None
    attempt: int
    max_attempts: int
    cancel_requested: bool
    worker_id: str | None
    lease_until: float | None
    progress: dict[str, Any] | None
    metrics: dict[str, Any]  # {"latest": {name: value}, "best": {name: value}}
    run: dict[str, Any]  # facts about the run: devices, versions, parameters, rows
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    run_dir: str | None  # relative to <home>/runs
    retry_of: str | None
    resume_from: str | None  # run_dir of the job whose checkpoint this one goes on from
    event_seq: int
    attempts: tuple[Attempt, ...] = field(default=())
    parent_id: str | None = None  # the study that it is a part of
    not_before: float | None = None  # a queued job's next attempt is put off until then
    project: str = "default"
    priority: int = 0  # higher first
    queue: str = "default"
    request_id: str | None = None  # of the request that made it


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job. ``seq`` counts from 1 per job without gaps."""

    job_id: str
    seq: int
    at: float
    type: str  # "state", "stage", "epoch", "checkpoint", "warning", "info", "cancel_requested", "attempt"
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of one series. ``value`` None stands for a number that is not finite."""

    name: str
    step: int
    epoch: int
    value: float | None
    at: float


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; ``has_more`` says whether another follows after the last item."""

    items: list[T]
    has_more: bool
