"""Advances studies: tells the optimiser which trials have ended, asks it for the next ones, ends the study.

A step is short, idempotent and fenced by the study's turn, and no worker's slot is held between two steps. Whoever ends
a trial takes the next step at once; a thread of every worker looks for studies that were forgotten.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from services.worker.study_sessions import StudySessions
from services.worker.trial_files import discard_model
from shared.errors import InvalidInput, NotFound, StaleClaim, Unavailable
from shared.home import Home
from shared.job_queue import JobQueue
from shared.jobs import Job, JobError, JobState
from shared.specs import ExportJob, TuneJob
from shared.specs.tune import reason
from shared.store import NewTrial, Store
from shared.trials import Study, Told, Trial, TrialSource, TrialStatus, Turn
from shared.tuning.engine import Asked, Engine
from shared.tuning.engines import Engines
from shared.tuning.inheritance import inheritable, remembered

TURN_SECONDS = 30.0
LOOK_SECONDS = 1.0
PAUSE_AFTER_ERROR = 5.0
MOST_ERRORS = 12  # steps of one study that fail in a row here, a minute's worth, before the study does
ASKED_AT_ONCE = 50  # so that a step stays well within its turn
INHERITED_FIELDS = ("project", "priority", "queue")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Advancer:
    """Thread-safe. ``start`` begins to look for forgotten studies."""

    store: Store
    queue: JobQueue
    engines: Engines
    home: Home
    sessions: StudySessions
    _errors: dict[str, int] = field(default_factory=dict)  # by study
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Look for studies that are due, once a second."""
        self._thread = threading.Thread(target=self._run, name="studies", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the step under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(TURN_SECONDS)

    def advance(self, study_id: str) -> None:
        """Take steps until nothing is left to do for now, unless somebody else is at it. Never raises."""
        try:
            while self._turn(study_id):
                pass
        except Unavailable as error:
            log.warning("%s: %s", study_id, error.message)
        except Exception:
            log.exception("%s: a step of the study failed", study_id)

    def _run(self) -> None:
        trouble = False
        while not self._stop.wait(LOOK_SECONDS):
            try:
                for study_id in self.store.studies.due():
                    self.advance(study_id)
                trouble = False
            except Unavailable as error:
                if not trouble:
                    log.warning("looking for studies waits: %s", error.message)
                trouble = True
            except Exception:
                log.exception("looking for studies")

    def _turn(self, study_id: str) -> bool:
        """One step; True if another one is to follow at once."""
        turn = self.store.studies.take_turn(study_id, TURN_SECONDS)
        if turn is None:
            return False
        step = _Step(self, turn)
        try:
            wake_in = step.take()
        except StaleClaim:  # or the study is to end: nothing was stored
            self.engines.forget(study_id)
            return self._give_back(turn, 0.0)
        except Exception as error:
            # what the mirror thinks may not be what is stored
            self.engines.forget(study_id)
            given_up = not isinstance(error, Unavailable) and self._given_up(turn, error)
            self._give_back(turn, None if given_up else PAUSE_AFTER_ERROR)
            raise
        self._errors.pop(study_id, None)
        try:
            step.after()
        except Exception:  # all is stored: whatever is missing is made up for by sweeps
            log.exception("%s: after a step of the study", study_id)
        return self._give_back(turn, wake_in)

    def _given_up(self, turn: Turn, error: Exception) -> bool:
        """A defect fails the study in the end, rather than to have it wait for ever."""
        count = self._errors.pop(turn.study_id, 0) + 1
        if count < MOST_ERRORS:
            self._errors[turn.study_id] = count
            return False
        try:
            _Step(self, turn).give_up(error)
        except Exception:
            log.exception("%s: the study could not be ended", turn.study_id)
            return False
        return True

    def _give_back(self, turn: Turn, wake_in: float | None) -> bool:
        try:
            return self.store.studies.end_turn(turn, wake_in=wake_in) or wake_in == 0.0
        except StaleClaim:
            return False


class _Step:
    """One step of one study, by whoever has its turn."""

    def __init__(self, parts: Advancer, turn: Turn) -> None:
        self.parts = parts
        self.store = parts.store
        self.turn = turn
        self._send: list[str] = []
        self._unmeasured: JobError | None = None  # a trial has no such metric, and none will
        self._discard: list[str] = []  # run folders whose model nobody wants any more

    def take(self) -> float | None:
        """Seconds until the next step is due; None: when somebody wakes the study.

        Raises:
            StaleClaim, Unavailable: nothing of what is missing has been done.
        """
        job = self.store.jobs.get(self.turn.study_id)
        if job.state.terminal:
            self.parts.engines.forget(job.id)
            return None
        try:
            engine = self.parts.engines.of(job.id)
        except ValidationError as error:
            self._end(JobState.FAILED, JobError("request_invalid", f"The job can't be read: {error}"))
            return None
        if job.state is JobState.QUEUED:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(job.created_at))
            self.store.studies.begin(self.turn, f"{job.model or 'studies'}/{stamp}-{job.id}")
            job = self.store.jobs.get(job.id)
        if engine.spec.continue_from is not None:
            try:
                self._inherit(job, engine.spec, engine.spec.continue_from)
            except (InvalidInput, NotFound) as error:
                self._end(JobState.FAILED, JobError(error.code, error.message, error.hint))
                return None
        with engine.lock:
            return self._advance(job, engine)

    def after(self) -> None:
        """What follows once all is stored; nothing is lost if it does not happen."""
        for job_id, queue in self.store.claims.queues_of(self._send).items():
            try:
                self.parts.queue.send(job_id, queue)
                self.store.jobs.mark_sent(job_id)
            except Unavailable as error:
                log.warning("%s is stored and will be sent later: %s", job_id, error.message)
                break
        for run_dir in self._discard:
            discard_model(self.parts.home.runs / run_dir)

    def give_up(self, error: Exception) -> None:
        """End the study and its trials without the optimiser; those that have ended are told.

        Raises:
            StaleClaim, Unavailable: nothing of what is missing has been done.
        """
        spec = TuneJob.model_validate(self.store.jobs.get(self.turn.study_id).spec)
        told = {}
        for trial, job in self.store.studies.open(self.turn.study_id):
            if job.state.terminal:
                told[trial.number] = self._told(trial, job, spec)
            else:
                self._stop_open([job], running=True)
                told[trial.number] = Told(trial.number, TrialStatus.CANCELLED)
        _, rows = self.store.studies.since(self.turn.study_id)
        known = [replace(row, values=told[row.number].values) if row.number in told else row for row in rows]
        self.store.studies.record(self.turn, told=list(told.values()), best=_best_of(spec, known))
        why = f"The next step of the study failed {MOST_ERRORS} times: {type(error).__name__}: {error}"
        hint = "Its trials are kept: continue it, when the cause is gone. The worker's log has the traceback."
        self._end(JobState.FAILED, JobError("internal", why[:2000], hint))

    def _inherit(self, job: Job, spec: TuneJob, earlier: str) -> None:
        """Before the first trial; the step that began the study may not have come to it."""
        now = self.store.studies.get(job.id)
        if now.asked or now.inherited:
            return
        before = self.store.jobs.get(earlier)
        study, rows = self.store.studies.since(earlier)
        kept = inheritable(spec, before.spec, rows)
        self.parts.sessions.inherited(job, spec, kept)
        self.store.studies.inherit(
            self.turn, kept, best=_best_of(spec, kept), attrs=remembered(spec, before.spec, study)
        )

    def _advance(self, job: Job, engine: Engine) -> float | None:
        study = self.parts.engines.sync(engine)
        self.parts.sessions.described(job, engine.spec)
        ended, open_jobs = self._ended(engine)
        for told in ended:
            engine.tell(told)
        best = engine.best(ended, study.best)
        self._note_discarded(engine.spec, study, ended, best)
        failed = study.failed + sum(told.status is TrialStatus.FAILED for told in ended)
        end = self._reason_to_end(job, engine.spec, failed, study.complete)
        asked: list[Asked] = []
        late = self._late(job, engine.spec)
        if end is None and not late and study.publisher is None:
            room = min(engine.spec.parallel - len(open_jobs), ASKED_AT_ONCE)
            asked = engine.ask(max(0, min(room, engine.left(study))))
        wanted = [self._new_trial(job, engine.spec, item) for item in asked]
        self._send = self.store.studies.record(
            self.turn,
            told=ended,
            best=best,
            wanted=wanted,
            attrs=engine.attrs if asked else None,
            shown=lambda now: self._shown(job, engine, now),
        )
        if len(self._send) != len(wanted):
            raise StaleClaim("the study was cancelled meanwhile")
        if asked:
            study = self.store.studies.get(study.id)
            if engine.spec.parallel > len(open_jobs) + len(asked) and engine.left(study):
                return 0.0
            return self._next_deadline(job, engine.spec)
        if open_jobs:
            if end is not None or late:
                self._stop_open(open_jobs, running=end is not None)
            return self._next_deadline(job, engine.spec)
        self._all_ended(job, engine, end)
        return None

    def _ended(self, engine: Engine) -> tuple[list[Told], list[Job]]:
        ended, still_open = [], []
        for trial, job in self.store.studies.open(self.turn.study_id):
            if job.state.terminal:
                told = self._told(trial, job, engine.spec)
                self.parts.sessions.ended(trial, told, engine.spec, job.finished_at or self.turn.now)
                ended.append(told)
            else:
                still_open.append(job)
        return ended, still_open

    def _told(self, trial: Trial, job: Job, spec: TuneJob) -> Told:
        values = (job.result or {}).get("values")
        code = (job.error or {}).get("code")
        if job.state is JobState.SUCCEEDED and values:
            status = TrialStatus.COMPLETE
        elif job.state is JobState.CANCELLED:
            status = TrialStatus.PRUNED if code == "pruned" else TrialStatus.CANCELLED
        else:
            status = TrialStatus.FAILED
        if status is TrialStatus.FAILED:
            self._unmeasured = self._unmeasured or _unmeasured(job.error)
        by_epoch = self.store.studies.values_by_epoch(job.id, spec.objective[0].metric)
        if status is TrialStatus.PRUNED and trial.stop_epoch is not None:
            # it may have gone on for a moment: what counts is what the pruner saw
            by_epoch = [pair for pair in by_epoch if pair[0] <= trial.stop_epoch]
        return Told(
            trial.number, status, values if status is TrialStatus.COMPLETE else None, _by_epoch(by_epoch)
        )

    def _note_discarded(self, spec: TuneJob, study: Study, ended: Sequence[Told], best: int | None) -> None:
        """Of a study with one objective, only the best trial's model is wanted."""
        if spec.keep_models == "all" or len(spec.objective) > 1:
            return
        numbers = [told.number for told in ended if told.number != best]
        if study.best is not None and study.best != best:
            numbers.append(study.best)
        for number in numbers:
            trial = self.store.studies.trial(study.id, number)
            if trial.source is not TrialSource.INHERITED and trial.run_dir is not None:
                self._discard.append(trial.run_dir)

    def _reason_to_end(self, job: Job, spec: TuneJob, failed: int, complete: int) -> JobError | None:
        """Why the study ends before its last trial, with all trials that still wait or run."""
        if job.cancel_requested:
            return JobError("cancelled", "")
        if failed and not complete and (error := self._unmeasured or self._unmeasured_before()) is not None:
            return error
        limit = spec.deadline.run_seconds
        if limit is not None and self._ran(job) >= limit:
            return JobError(
                "deadline",
                f"The study ran for the {limit:g} s that deadline.run_seconds allows.",
                hint="Its trials are kept: continue it with more time. timeout_seconds ends a study in good order.",
            )
        if spec.max_failures is not None and failed > spec.max_failures:
            return JobError(
                "too_many_failures",
                f"{failed} trials have failed; max_failures allows {spec.max_failures}.",
                hint="See the errors of the failed trials. What they have in common may be the space or the base job.",
            )
        return None

    def _unmeasured_before(self) -> JobError | None:
        failed = self.store.trials.page(self.turn.study_id, status=TrialStatus.FAILED, limit=1).items
        return _unmeasured(failed[0].error) if failed else None

    def _late(self, job: Job, spec: TuneJob) -> bool:
        return spec.timeout_seconds is not None and self._ran(job) >= spec.timeout_seconds

    def _ran(self, job: Job) -> float:
        return self.turn.now - (job.started_at or self.turn.now)

    def _next_deadline(self, job: Job, spec: TuneJob) -> float | None:
        limits = [spec.timeout_seconds, spec.deadline.run_seconds]
        left = [limit - self._ran(job) for limit in limits if limit is not None]
        return min((max(0.05, seconds) for seconds in left if seconds > 0), default=None)

    def _stop_open(self, jobs: Sequence[Job], *, running: bool) -> None:
        for job in jobs:
            if not job.cancel_requested and (running or job.state is JobState.QUEUED):
                self.store.jobs.request_cancel(job.id, f"its study {self.turn.study_id}")

    def _new_trial(self, job: Job, spec: TuneJob, asked: Asked) -> NewTrial:
        named = {"name": f"{job.name or job.id} trial {asked.number}"[:200]}
        inherited = {name: getattr(spec, name) for name in INHERITED_FIELDS}
        error: JobError | None = None
        try:
            train = spec.assigned(asked.params)
        except ValueError as refused:  # submission has tried each value, but not all of them together
            train = spec.base
            tried = ", ".join(f"{name} = {json.dumps(value)}" for name, value in asked.params.items())
            error = JobError(
                "parameters_invalid",
                f"With {tried} the job is not valid: {reason(refused)}",
                hint="Such trials count as failed. A 'when' keeps apart what does not go together.",
            )
        train = train.model_copy(update={**named, **inherited})
        return NewTrial(
            number=asked.number,
            source=asked.source,
            params=asked.params,
            attrs=asked.attrs,
            spec=train,
            run={key: job.run[key] for key in ("code",) if key in job.run},
            run_dir=f"{job.run_dir}/trial-{asked.number:05d}",
            error=error,
        )

    def _shown(self, job: Job, engine: Engine, study: Study) -> tuple[dict[str, Any], dict[str, Any]]:
        total = engine.total(study)
        done = study.asked - study.open
        ran = self._ran(job)
        progress = {
            "fraction": round(min(1.0, done / max(1, total)), 4),
            "eta_seconds": round(ran / done * (total - done), 1) if done and ran > 0 else None,
            "trials": {
                "total": total,
                "inherited": study.inherited,
                **{
                    name: getattr(study, name)
                    for name in ("complete", "pruned", "failed", "cancelled", "open")
                },
            },
        }
        if study.best is None:
            return progress, {}
        value = engine.value(study.best)
        best = {"value": value, "trial": study.best}
        return progress, {"best": {engine.spec.objective[0].metric: best}}

    def _all_ended(self, job: Job, engine: Engine, end: JobError | None) -> None:
        study = self.store.studies.get(job.id)
        publisher = self.store.jobs.get(study.publisher) if study.publisher else None
        if publisher is not None and not publisher.state.terminal:
            if end is not None:
                self._stop_open([publisher], running=True)
        elif end is not None:
            self._end(*((JobState.CANCELLED,) if end.code == "cancelled" else (JobState.FAILED, end)))
        elif not study.complete and study.best is None:
            self._end(JobState.FAILED, _none_complete(study))
        elif study.best is None:
            self._end(JobState.SUCCEEDED, result={"trials": study.asked, "front": engine.front()})
        else:
            best = self.store.studies.trial(job.id, study.best)
            result = {
                "trials": study.asked,
                "trial": best.number,
                "job": best.job_id,
                "params": best.params,
                "values": best.values,
                "metrics": best.metrics.get("latest") or {},
            }
            if engine.spec.publish is None:
                self._end(JobState.SUCCEEDED, result=result)
            elif publisher is None:
                self._publish(job, engine.spec, best)
            else:
                self._published(publisher, best, result)

    def _publish(self, job: Job, spec: TuneJob, best: Trial) -> None:
        """Have the best trial exported, proven and published by a job of its own, as any model is."""
        source: dict[str, Any] = {"job": best.job_id}
        if spec.objective[0].at == "best":
            source["checkpoint"] = "best"
        export = ExportJob.model_validate(
            {
                "kind": "export",
                "name": f"{job.name or job.id} best trial"[:200],
                "from": source,
                "publish": spec.publish.model_dump() if spec.publish else None,
                "retry": spec.retry.model_dump(),
                **{name: getattr(spec, name) for name in INHERITED_FIELDS},
            }
        )
        self._send = [self.store.studies.publish(self.turn, export)]

    def _published(self, publisher: Job, best: Trial, result: dict[str, Any]) -> None:
        if publisher.state is JobState.SUCCEEDED:
            found = publisher.result or {}
            result |= {"model": found.get("model"), "version": found.get("version")}
            self._end(JobState.SUCCEEDED, result=result)
            return
        told = publisher.error or {}
        code = str(told.get("code") or "internal")
        message = f"The best trial, {best.number}, could not be published: {told.get('message', 'no reason is known')}"
        self._end(JobState.FAILED, JobError(code, message, told.get("hint")), result)

    def _end(
        self, state: JobState, error: JobError | None = None, result: dict[str, Any] | None = None
    ) -> None:
        self.store.studies.finish(self.turn, state, error=error, result=result)
        self.parts.engines.forget(self.turn.study_id)
        log.info("%s %s", self.turn.study_id, f"{state}: {error.message}" if error else state)


def _unmeasured(error: dict[str, Any] | None) -> JobError | None:
    """A trial lacks the objective: so will all others."""
    if error is None or error.get("code") != "objective_missing":
        return None
    return JobError("objective_missing", error["message"], error.get("hint"))


def _none_complete(study: Study) -> JobError:
    return JobError(
        "no_trial_complete",
        f"None of the {study.asked} trials is complete: {study.failed} failed, {study.pruned} were pruned, "
        f"{study.cancelled} were cancelled.",
        hint="See the errors of its trials.",
    )


def _by_epoch(pairs: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The last value of each epoch: a lost attempt may have trained one twice."""
    return sorted(dict(pairs).items())


def _best_of(spec: TuneJob, rows: Sequence[Trial]) -> int | None:
    """The index of the best complete trial; None with several objectives, or when there is none."""
    found = [(row.values[0], i) for i, row in enumerate(rows) if row.values]
    if not found or len(spec.objective) > 1:
        return None
    return (min if spec.directions[0] == "minimize" else max)(found, key=lambda pair: pair[0])[1]
