"""What clients see of a study: its trials, the best so far, and pictures of it as numbers.

Every value is None where it is not there or not finite.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from shared.jobs import JobState
from shared.trials import TrialStatus
from shared.views import ErrorView, ProgressView, View

TrialOrder = Literal["number", "value", "duration", "status"]


class ObjectiveView(View):
    metric: str
    mode: Literal["min", "max"]


class TrialView(View):
    number: int = Field(description="From 0, in the order in which they were begun.")
    status: TrialStatus
    job_id: str = Field(description="The train job that it is.")
    source: str = Field(description="Who chose the parameters: sampler, enqueued, inherited.")
    params: dict[str, Any] = Field(description="Without those that do not apply to it.")
    values: dict[str, float | None] = Field(description="By objective; empty until it has ended.")
    intermediate: list[tuple[int, float | None]] = Field(
        description="[epoch, value] of the first objective; at most 200 of them, evenly thinned, the last one kept."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None = Field(description="From the start to the end.")
    progress: ProgressView | None = Field(description="Of a running one.")
    error: ErrorView | None = Field(description="Of a failed one.")
    links: dict[str, str]


class TrialList(View):
    items: list[TrialView]
    has_more: bool


class StudyView(View):
    """How a study stands."""

    id: str
    state: JobState
    objectives: list[ObjectiveView]
    sampler: str
    pruner: str
    trials: int = Field(description="How many there will be, if nothing ends the study before.")
    inherited: int = Field(description="Trials taken over from the study that it continues.")
    counts: dict[TrialStatus, int] = Field(description="Without inherited ones.")
    best: list[TrialView] = Field(
        description="The best trial; of several objectives the Pareto front, in the order of the first one, at most "
        "200. Empty before a trial is complete."
    )
    running: list[TrialView] = Field(description="At most 200.")
    seconds_per_trial: float | None = Field(description="Mean over trials that have ended.")
    eta_seconds: float | None = Field(description="Until the last trial ends, at the pace so far.")


class HistoryPoint(View):
    number: int
    status: TrialStatus
    value: float | None
    best: float | None = Field(description="The best value up to and with this trial.")
    finished_at: datetime


class HistoryView(View):
    """How one objective came to be what it is, by the trials that have ended, in the order of their numbers."""

    metric: str
    mode: Literal["min", "max"]
    points: list[HistoryPoint] = Field(
        description="Thinned evenly when there are more; each new best is kept."
    )
    total: int = Field(description="Trials that have ended.")


class ImportanceView(View):
    """How much of the objective's differences each parameter explains."""

    metric: str
    evaluator: Literal["ped_anova"]
    trials: int = Field(description="Complete ones that it is computed from.")
    importances: dict[str, float] = Field(description="Largest first; they add up to 1.")
    left_out: list[str] = Field(
        description="Parameters that do not apply to all trials: they can't be compared."
    )


class Axis(View):
    """One axis of the parallel coordinates."""

    name: str
    kind: Literal["number", "category"]
    log: bool = False
    range: tuple[float, float] | None = Field(None, description="Of numbers.")
    categories: list[Any] | None = Field(None, description="Of categories, in the order of the space.")


class ParallelLine(View):
    number: int
    status: TrialStatus
    values: list[Any] = Field(description="One for each axis; null: does not apply, or not a number.")


class ParallelView(View):
    """Parallel coordinates: an axis for each parameter, then one for each objective; a line for each trial."""

    axes: list[Axis]
    objectives: list[ObjectiveView]
    lines: list[ParallelLine] = Field(description="The newest that have ended, at most as many as asked for.")
    total: int
