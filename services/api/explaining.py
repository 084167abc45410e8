"""Says why a job waits, or what it does, and about how long: in words, from what the store knows."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from typing import Any

from shared.jobs import Job, JobState
from shared.store import Store, Worker
from shared.store.waiting import Ahead, Running

STAGES = {
    "starting": "A worker has it and starts its training program.",
    "preparing_data": "Its data are read and prepared.",
    "building": "The model is built, and the first step compiled.",
    "preflight": "A few steps are compared between its replicas.",
    "training": "It trains.",
    "evaluating": "The trained model is evaluated.",
    "exporting": "The trained model is written.",
    "publishing": "Its version is published; it has succeeded when the model server says AVAILABLE.",
    "stopping": "It was told to stop, and writes a checkpoint.",
}
ENOUGH_TO_JUDGE = 1  # jobs that have ended, before a guess is made from them


class Explaining:
    """Reads only. Thread-safe."""

    def __init__(self, store: Store, *, alive_within: float) -> None:
        self._store = store
        self._alive_within = alive_within

    def explain(self, job_id: str) -> dict[str, Any]:
        """An ``ExplainView``.

        Raises:
            NotFound: no such job.
        """
        job = self._store.jobs.get(job_id)
        found: dict[str, Any] = {
            "ahead": None,
            "ahead_first": [],
            "starts_in_seconds": None,
            "ends_in_seconds": None,
        }
        if job.state.terminal:
            reasons = [_reason("ended", f"It has ended: {job.state}.")]
        elif job.kind == "tune":
            reasons = self._study(job)
        elif job.state is JobState.RUNNING:
            reasons = self._running(job)
            found["ends_in_seconds"] = (job.progress or {}).get("eta_seconds")
        else:
            reasons = self._queued(job, found)
        return {
            "id": job.id,
            "state": job.state,
            "stage": job.stage,
            "project": job.project,
            "priority": job.priority,
            "queue": job.queue,
            "summary": reasons[0]["message"],
            "reasons": reasons,
            **found,
        }

    def nobody_serves(self, queue: str) -> str | None:
        """In words, that a job of this queue would wait for want of workers; None when some worker serves it."""
        reason = _without_workers(queue, self._alive(), queue)
        return None if reason is None else str(reason["message"])

    def _alive(self) -> list[Worker]:
        return [one for one in self._store.workers.find() if one.age <= self._alive_within]

    def _study(self, job: Job) -> list[dict[str, Any]]:
        study = self._store.studies.get(job.id)
        if job.state is JobState.QUEUED:
            if not self._alive():
                return [_reason("no_worker", "No live worker is there to begin the study.")]
            return [_reason("study", "A worker is about to begin the study.")]
        if study.publisher is not None:
            return [_reason("publishing", f"The best trial is published by the job {study.publisher}.")]
        return [
            _reason(
                "trials",
                f"{study.open} of its trials wait or run, {study.complete} are complete; a study holds no slot. Why a "
                "trial waits is told by its own job: GET /jobs/{id}/trials has the ids.".replace(
                    "{id}", job.id
                ),
            )
        ]

    def _running(self, job: Job) -> list[dict[str, Any]]:
        gang = self._gang(job)
        if gang is not None:
            return [gang]
        stage = STAGES.get(job.stage or "", f"It is at the stage {job.stage}.")
        where = (
            f" It runs on {job.worker_id}, attempt {job.attempt} of {job.max_attempts}."
            if job.worker_id
            else ""
        )
        return [_reason(job.stage or "running", stage + where)]

    def _gang(self, job: Job) -> dict[str, Any] | None:
        gang = self._store.gangs.status(job.id)
        if gang is None or gang.here >= gang.size:
            return None
        ahead = f" The job {gang.ahead} is given workers first." if gang.ahead else ""
        tried = f" It gave its slot back {gang.tries} times, since others did not come." if gang.tries else ""
        return _reason(
            "waiting_for_workers",
            f"It has {gang.here} of the {gang.size} workers that it needs.{ahead}{tried}",
        )

    def _queued(self, job: Job, found: dict[str, Any]) -> list[dict[str, Any]]:
        alive = self._alive()
        serving = [one for one in alive if job.queue in one.queues and one.draining is None]
        running = self._store.waiting.running()
        project = self._store.projects.get(job.project)
        ahead = self._store.waiting.ahead(job)
        found["ahead"], found["ahead_first"] = ahead.count, list(ahead.first)
        reasons = []
        if job.cancel_requested:
            reasons.append(_reason("cancel", "It was asked to cancel."))
        if job.not_before is not None:
            reasons.append(
                _reason("retry_pause", "An attempt has failed, and the next one is put off until retry_at.")
            )
        gang = self._gang(job)
        if gang is not None:
            reasons.append(gang)
        if (missing := _without_workers(job.queue, alive, job.queue)) is not None:
            reasons.append(missing)
        limit = project.max_running
        if limit is not None and project.running >= limit:
            reasons.append(
                _reason(
                    "project_limit",
                    f"Its project {job.project} runs {project.running} jobs, and may run {limit}.",
                )
            )
        slots = sum(one.slots for one in serving)
        busy = sum(min(one.slots, len(one.jobs)) for one in serving)
        if ahead.count:
            first = f", the first of them {ahead.first[0]}" if ahead.first else ""
            reasons.append(
                _reason(
                    "ahead", f"{ahead.count} jobs of the queue {job.queue} have their turn before it{first}."
                )
            )
        if serving and busy >= slots:
            reasons.append(
                _reason("workers_busy", f"All {slots} slots of the workers that serve its queue are taken.")
            )
        if not reasons:
            reasons.append(_reason("about_to_start", "A slot is free: a worker is about to take it."))
        seconds = self._store.waiting.recent_seconds(job.queue, job.kind)
        usual = statistics.median(seconds) if len(seconds) >= ENOUGH_TO_JUDGE else None
        found["starts_in_seconds"] = _starts_in(job, serving, running, ahead, limit, usual)
        if usual is not None and found["starts_in_seconds"] is not None:
            found["ends_in_seconds"] = round(found["starts_in_seconds"] + usual, 1)
        return reasons


def _reason(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}


def _without_workers(name: str, alive: Sequence[Worker], queue: str) -> dict[str, Any] | None:
    serving = [one for one in alive if queue in one.queues]
    if not serving:
        others = sorted({other for one in alive for other in one.queues})
        there = f"live workers serve {', '.join(others)}" if others else "no worker is alive"
        return _reason(
            "no_worker",
            f"No live worker serves the queue {name}; {there}. Start one with MODELYARD_QUEUES={name}.",
        )
    if all(one.draining for one in serving):
        ids = ", ".join(one.id for one in serving[:3])
        return _reason(
            "draining",
            f"All workers that serve the queue {name} are draining ({ids}): POST /workers/ID/undrain.",
        )
    return None


def _starts_in(
    job: Job,
    serving: Sequence[Worker],
    running: Sequence[Running],
    ahead: Ahead,
    limit: int | None,
    usual: float | None,
) -> float | None:
    """About how many seconds until its turn; None where nothing honest can be said.

    Every job is taken to last as long as the median of the recent ones, but those that say their own end.
    """
    if not serving or job.not_before is not None or limit == 0:
        return None
    here = {one.id for one in serving}
    known: list[float | None] = [_left(one, usual) for one in running if one.worker_id in here]
    free = max(0, sum(one.slots for one in serving) - len(known))
    waits = [_turn([0.0] * free + known, ahead.count, usual)]
    if limit is not None:
        own = [_left(one, usual) for one in running if one.project == job.project]
        places: list[float | None] = [0.0] * max(0, limit - len(own))
        waits.append(_turn(places + own, ahead.of_own_project, usual))
    if any(wait is None for wait in waits):
        return None
    return round(max(wait for wait in waits if wait is not None), 1)


def _left(one: Running, usual: float | None) -> float | None:
    if one.eta_seconds is not None:
        return float(one.eta_seconds)
    return None if usual is None else max(0.0, usual - one.elapsed)


def _turn(places: Sequence[float | None], before: int, usual: float | None) -> float | None:
    """When the job after ``before`` others gets a place, given when each becomes free."""
    free = [place for place in places if place is not None]
    if not places or (before and usual is None):
        return None
    if len(free) < len(places) and not any(place == 0.0 for place in free):
        return None  # a job whose end nobody knows may be the first to end
    if usual is None or not before:
        return min(free)
    heapq.heapify(free)
    for _ in range(min(before, 100_000)):
        heapq.heappush(free, heapq.heappop(free) + usual)
    return free[0]
