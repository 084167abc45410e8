"""What is said of a study: how it stands, its best trials, and rows of numbers that pictures are drawn from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from shared.errors import Conflict, InvalidInput
from shared.jobs import Job, MetricPoint
from shared.specs import TuneJob, parse_job
from shared.specs.optimiser import Objective
from shared.specs.space import Choice, Int, LogUniform, Uniform, as_category
from shared.store import Store
from shared.store.trial_pages import Ended
from shared.trials import Study, Trial, TrialStatus

MOST_SHOWN = 200
_REMEMBERED = 100


@dataclass
class _Front:
    """The Pareto front of one study, as of a revision."""

    revision: int = -1
    trials: dict[int, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a study stands."""

    job: Job
    spec: TuneJob
    study: Study
    total: int
    counts: dict[TrialStatus, int]
    best: list[Trial]
    running: list[Trial]
    seconds_per_trial: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class Axes:
    """Axes and lines of parallel coordinates."""

    axes: list[dict[str, Any]]
    lines: list[tuple[int, TrialStatus, list[Any]]]
    total: int


class Studies:
    """Thread-safe. Specs and Pareto fronts are remembered, so that a look costs what has changed since the last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._specs: OrderedDict[str, TuneJob] = OrderedDict()
        self._fronts: OrderedDict[str, _Front] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, job_id: str) -> tuple[Job, TuneJob]:
        """A tune job and its spec.

        Raises:
            NotFound: no such job.
            Conflict: it is no tune job.
        """
        job = self._store.jobs.get(job_id)
        if job.kind != "tune":
            hint = "Ask a job of kind 'tune'."
            if job.parent_id:
                hint = f"It is a part of the study {job.parent_id}: ask that."
            raise Conflict(f"Job {job_id} is a {job.kind} job, not a study.", code="not_a_study", hint=hint)
        with self._lock:
            spec = self._specs.get(job_id)
        if spec is None:
            try:
                found = parse_job(job.spec)
            except ValidationError as error:
                raise Conflict(
                    f"The spec of {job_id} can't be read by this version: {error.errors()[0]['msg']}.",
                    code="study_unreadable",
                    hint=f"Its trials are jobs: see GET /jobs?parent={job_id}.",
                ) from None
            assert isinstance(found, TuneJob)  # noqa: S101 (its kind was looked at)
            spec = found
            with self._lock:
                _remember(self._specs, job_id, spec)
        return job, spec

    def standing(self, job_id: str) -> Standing:
        """How the study stands now.

        Raises:
            NotFound, Conflict: as ``open`` does.
        """
        job, spec = self.open(job_id)
        study = self._store.studies.get(job_id)
        waiting, running = self._store.trials.open_counts(job_id)
        counts = {
            TrialStatus.WAITING: waiting,
            TrialStatus.RUNNING: running,
            TrialStatus.COMPLETE: study.complete,
            TrialStatus.PRUNED: study.pruned,
            TrialStatus.FAILED: study.failed,
            TrialStatus.CANCELLED: study.cancelled,
        }
        now_running = self._store.trials.page(job_id, status=TrialStatus.RUNNING, limit=MOST_SHOWN).items
        pace = self._store.trials.pace(job_id)
        # of a grid that goes on, only its steps know how many combinations are left
        total = (job.progress or {}).get("trials", {}).get("total", spec.trials)
        eta = None
        if pace is not None and not job.state.terminal:
            ended = study.complete + study.pruned + study.failed + study.cancelled
            under_way = sum(_fraction(trial) for trial in now_running)
            eta = max(0.0, total - ended - under_way) * pace / max(1, running)
        return Standing(job, spec, study, total, counts, self._best(spec, study), now_running, pace, eta)

    def live_values(self, spec: TuneJob, shown: list[Trial]) -> dict[str, list[MetricPoint]]:
        """The first objective's points of those of the trials that have not ended, by job."""
        running = [trial.job_id for trial in shown if trial.status is TrialStatus.RUNNING]
        return self._store.studies.points(running, spec.objective[0].metric) if running else {}

    def history(
        self, job_id: str, metric: str | None, max_points: int
    ) -> tuple[Objective, list[tuple[Ended, float | None, float | None]], int]:
        """An objective; (trial, value, best up to it) of the trials that have ended, thinned; how many there are.

        Raises:
            NotFound, Conflict: as ``open`` does.
            InvalidInput: the study has no such objective.
        """
        _, spec = self.open(job_id)
        index, objective = objective_of(spec, metric)
        rows = self._store.trials.ended(job_id)
        sign = 1.0 if objective.direction == "minimize" else -1.0
        best: float | None = None
        points: list[tuple[Ended, float | None, float | None]] = []
        better: list[int] = []
        for place, row in enumerate(rows):
            value = row.values[index] if row.values else None
            if value is not None and (best is None or sign * value < sign * best):
                best = value
                better.append(place)
            points.append((row, value, best))
        kept = _thinned(len(points), better, max_points)
        shown = [points[place] for place in kept]
        if index == 0:
            pruned = [row.number for row, _, _ in shown if row.status is TrialStatus.PRUNED]
            reached = self._store.trials.last_values(job_id, pruned)
            shown = [(row, reached.get(row.number, value), best) for row, value, best in shown]
        return objective, shown, len(points)

    def parallel(self, job_id: str, max_lines: int) -> tuple[TuneJob, Axes]:
        """Parallel coordinates of the newest trials that have ended.

        Raises:
            NotFound, Conflict: as ``open`` does.
        """
        _, spec = self.open(job_id)
        study = self._store.studies.get(job_id)
        rows = self._store.trials.ended(job_id, newest=max_lines)
        blank: list[float | None] = [None] * len(spec.objective)
        lines = [
            (
                row.number,
                row.status,
                [as_category(row.params[name]) if name in row.params else None for name in spec.space]
                + list(row.values or blank),
            )
            for row in rows
        ]
        axes = [_axis(name, parameter) for name, parameter in spec.space.items()]
        for index, objective in enumerate(spec.objective):
            values = [row.values[index] for row in rows if row.values]
            span = (min(values), max(values)) if values else None
            axes.append({"name": objective.metric, "kind": "number", "range": span})
        ended = study.complete + study.pruned + study.failed + study.cancelled + study.inherited
        return spec, Axes(axes, lines, ended)

    def _best(self, spec: TuneJob, study: Study) -> list[Trial]:
        if len(spec.objective) == 1:
            numbers = [] if study.best is None else [study.best]
            return self._store.trials.numbered(study.id, numbers)
        with self._lock:
            front = self._fronts.get(study.id) or _Front()
        if study.revision > front.revision:
            fresh = self._store.trials.changed(study.id, front.revision)
            candidates = dict(front.trials)
            candidates.update({row.number: row.values for row in fresh if row.values})
            front = _Front(study.revision, pareto_front(candidates, spec.directions))
            with self._lock:
                _remember(self._fronts, study.id, front)
        first = 1.0 if spec.directions[0] == "minimize" else -1.0
        order = sorted(front.trials, key=lambda number: first * front.trials[number][0])[:MOST_SHOWN]
        by_number = {trial.number: trial for trial in self._store.trials.numbered(study.id, order)}
        return [by_number[number] for number in order if number in by_number]


def objective_of(spec: TuneJob, metric: str | None) -> tuple[int, Objective]:
    """The objective of that name, the first one for None.

    Raises:
        InvalidInput: there is none.
    """
    names = [item.metric for item in spec.objective]
    if metric is None:
        return 0, spec.objective[0]
    if metric not in names:
        raise InvalidInput(
            f"The study has no objective {metric[:80]!r}; it has: {', '.join(names)}.", field="objective"
        )
    return names.index(metric), spec.objective[names.index(metric)]


def pareto_front(trials: dict[int, list[float]], directions: list[Any]) -> dict[int, list[float]]:
    """Those that no other is better than in one value and as good as in all. Equal ones are all in it."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
    costs = {
        number: tuple(sign * value for sign, value in zip(signs, values, strict=True))
        for number, values in trials.items()
    }
    front: list[int] = []
    for number in sorted(costs, key=lambda number: (costs[number], number)):
        mine = costs[number]
        # sorted: whatever is better than this one comes before it
        if not any(
            costs[other] != mine and all(a <= b for a, b in zip(costs[other], mine, strict=True))
            for other in front
        ):
            front.append(number)
    return {number: trials[number] for number in front}


def _axis(name: str, parameter: Any) -> dict[str, Any]:
    match parameter:
        case Choice():
            return {
                "name": name,
                "kind": "category",
                "categories": [as_category(value) for value in parameter.choice],
            }
        case Int():
            return {"name": name, "kind": "number", "range": parameter.int_, "log": parameter.log}
        case LogUniform():
            return {"name": name, "kind": "number", "range": parameter.loguniform, "log": True}
        case Uniform():
            return {"name": name, "kind": "number", "range": parameter.uniform}
    raise TypeError(f"{type(parameter).__name__} has no axis")


def _fraction(trial: Trial) -> float:
    return float((trial.progress or {}).get("fraction") or 0.0)


def _thinned(total: int, kept: list[int], limit: int) -> list[int]:
    """At most ``limit`` places among ``total``: evenly spread ones, the last one, and as many of ``kept`` as fit."""
    if total <= limit:
        return list(range(total))
    must = {*kept[-limit + 1 :], total - 1} if limit > 1 else {total - 1}
    free = limit - len(must)
    spread = [place * total // free for place in range(free)] if free else []
    return sorted(must | set(spread))


def _remember(known: OrderedDict[str, Any], key: str, value: Any) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
