"""Studies and trials as the bodies of ``shared.study_views``, in plain dicts as ``render`` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.api import render
from services.api.studies import Axes, Standing
from shared.jobs import MetricPoint
from shared.specs import TuneJob
from shared.specs.optimiser import Objective
from shared.store.trial_pages import Ended
from shared.trials import Trial, TrialStatus

MOST_INTERMEDIATE = 200


def objective(item: Objective) -> dict[str, Any]:
    """``ObjectiveView``."""
    return {"metric": item.metric, "mode": "min" if item.direction == "minimize" else "max"}


def trial(record: Trial, spec: TuneJob, live: Mapping[str, Sequence[MetricPoint]]) -> dict[str, Any]:
    """``TrialView``. ``live`` has the points of those that run, by job."""
    ended = record.status.ended
    if record.intermediate is not None:
        points: list[tuple[int, float | None]] = list(record.intermediate)
    else:
        points = [(point.epoch, point.value) for point in live.get(record.job_id, ())]
    values = record.values or []
    seconds = None
    if record.started_at is not None and record.finished_at is not None:
        seconds = record.finished_at - record.started_at
    links = {"job": f"/jobs/{record.job_id}"}
    if record.run_dir:
        links["tensorboard"] = f"/tensorboard/jobs/{record.job_id}/"
    return {
        "number": record.number,
        "status": record.status,
        "job_id": record.job_id,
        "source": record.source,
        "params": record.params,
        "values": dict(zip((item.metric for item in spec.objective), values, strict=False)),
        "intermediate": _thinned(points),
        "created_at": render.time_of(record.asked_at),
        "started_at": render.maybe_time_of(record.started_at),
        "finished_at": render.maybe_time_of(record.finished_at),
        "duration_seconds": seconds,
        "progress": None if ended else render.progress(record.progress),
        "error": record.error if record.status is TrialStatus.FAILED else None,
        "links": links,
    }


def study(found: Standing, live: Mapping[str, Sequence[MetricPoint]]) -> dict[str, Any]:
    """``StudyView``."""
    return {
        "id": found.study.id,
        "state": found.job.state,
        "objectives": [objective(item) for item in found.spec.objective],
        "sampler": found.spec.sampler.name,
        "pruner": found.spec.pruner.name,
        "trials": found.total,
        "inherited": found.study.inherited,
        "counts": found.counts,
        "best": [trial(item, found.spec, live) for item in found.best],
        "running": [trial(item, found.spec, live) for item in found.running],
        "seconds_per_trial": found.seconds_per_trial,
        "eta_seconds": found.eta_seconds,
    }


def history(
    wanted: Objective, points: Sequence[tuple[Ended, float | None, float | None]], total: int
) -> dict[str, Any]:
    """``HistoryView``."""
    return {
        **objective(wanted),
        "points": [
            {
                "number": row.number,
                "status": row.status,
                "value": value,
                "best": best,
                "finished_at": render.time_of(row.told_at),
            }
            for row, value, best in points
        ],
        "total": total,
    }


def parallel(spec: TuneJob, found: Axes) -> dict[str, Any]:
    """``ParallelView``."""
    return {
        "axes": found.axes,
        "objectives": [objective(item) for item in spec.objective],
        "lines": [
            {"number": number, "status": status, "values": values} for number, status, values in found.lines
        ],
        "total": found.total,
    }


def _thinned(points: list[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    if len(points) <= MOST_INTERMEDIATE:
        return points
    stride = -(-len(points) // (MOST_INTERMEDIATE - 1))
    kept = points[::stride]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]
