"""One attempt at one job: claim, run, publish, finish. The rules are in docs/architecture.md."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.worker import causes, members, memory
from services.worker.advance import Advancer
from services.worker.cluster import Cluster
from services.worker.deadline import RunClock
from services.worker.gang import Gang, StandDown, StoppedWaiting, queued_until
from services.worker.journal import Journal
from services.worker.lease import LeaseKeeper
from services.worker.meters import Meters
from services.worker.preloader import Preloader, Trainer
from services.worker.protocol import (
    EpochEnded,
    Failed,
    Finished,
    RunDir,
    Stopped,
    TrainingEvent,
    TrainingRequest,
    Warned,
)
from services.worker.publish import Publisher
from services.worker.request import training_request
from services.worker.supervision import Ending, StopReason, watch
from services.worker.trial import Trials, TrialWatch
from shared.errors import ModelyardError, NotFound, StaleClaim, Unavailable
from shared.job_queue import JobQueue
from shared.jobs import AttemptOutcome, Claim, Job, JobError, JobState
from shared.logs import bound
from shared.settings import DEFAULT_JOB_QUEUE, Settings
from shared.specs import MultiWorkerMirroredStrategy, ParameterServerStrategy, TrainJob, parse_job
from shared.store import Report, Store

RELEASE_TRIES_SECONDS = 60.0
PORT_TRIES = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Runs attempts. Thread-safe: each call of ``run`` has its own job."""

    settings: Settings
    worker_id: str
    store: Store
    publisher: Publisher
    preloader: Preloader
    studies: Advancer
    trials: Trials
    stopping: threading.Event  # the worker was told to stop
    gpus: Callable[[], Sequence[str]] = tuple  # CUDA's names of this machine's GPUs, for a cluster's members
    queues: Sequence[str] = (DEFAULT_JOB_QUEUE,)  # whose jobs this worker takes
    giving_back: threading.Event = field(default_factory=threading.Event)  # it drains, and has no time
    queue: JobQueue | None = None  # to wake slots of other workers
    meters: Meters = field(default_factory=lambda: Meters("", 0))

    @property
    def told_to_stop(self) -> bool:
        """Whether jobs are to be given back."""
        return self.stopping.is_set() or self.giving_back.is_set()

    def run_next(self) -> Job | None:
        """Take the job that comes next and see it through, to an end or back to the queue. Returns it as it was when it
        was taken; None: there was none to be taken.
        """
        if self.stopping.is_set():
            return None
        taken = self.store.claims.claim_next(self.worker_id, self.queues, self.settings.lease_seconds)
        if taken is None:
            return None
        self._see_through(*taken)
        return taken[1]

    def _see_through(self, claim: Claim, job: Job) -> None:
        with bound(job_id=job.id, attempt=claim.attempt, request_id=job.request_id):
            self._run_attempt(claim, job)

    def _run_attempt(self, claim: Claim, job: Job) -> None:
        job_id = job.id
        log.info("%s attempt %d starts", job_id, claim.attempt)
        started = time.monotonic()
        with LeaseKeeper(
            self.store,
            claim,
            lease_seconds=self.settings.lease_seconds,
            every_seconds=self.settings.heartbeat_seconds,
        ) as keeper:
            attempt = _Attempt(self, claim, job, keeper)
            try:
                ended = attempt.run()
            except StandDown as wait:
                ended = attempt.stand_down(wait)
            except StaleClaim:
                ended = "lost: another attempt has it"
            except ModelyardError as error:
                ended = attempt.fail(JobError(error.code, error.message, error.hint))
            except OSError as error:
                log.warning("%s: %s", job_id, error)
                ended = attempt.fail(causes.of_os_error(error))
            except Exception as error:
                log.exception("%s: the supervisor failed", job_id)
                ended = attempt.fail(JobError("internal", f"{type(error).__name__}: {error}"))
        seconds = time.monotonic() - started
        self.meters.attempt(ended, seconds)
        log.info("%s attempt %d %s after %.1f s", job_id, claim.attempt, ended, seconds)
        if job.parent_id is not None:
            self.studies.advance(job.parent_id)  # which comes before any other job of this slot

    def advance_if_study(self, job_id: str) -> bool:
        """Take a study's next step, if ``job_id`` is one; a message about it means no more than that."""
        try:
            self.store.studies.get(job_id)
        except NotFound:
            return False
        self.studies.advance(job_id)
        return True


class _Attempt:
    def __init__(self, parts: Attempts, claim: Claim, job: Job, keeper: LeaseKeeper) -> None:
        self.parts = parts
        self.settings = parts.settings
        self.store = parts.store
        self.claim = claim
        self.job = job
        self.keeper = keeper
        home = parts.settings.paths
        self.run_name = job.run_dir or f"{job.model or 'unpublished'}/{_stamp(job.created_at)}-{job.id}"
        self.run_dir = RunDir(home.runs / self.run_name)
        self.journal = Journal(self._report, metrics=job.metrics, run=job.run)
        self.clock = RunClock(job, claim)
        self.cluster: Cluster | None = None  # None: a single program
        self.gang: Gang | None = None  # of a cluster that spans workers
        self.batch_size = int((job.spec.get("fit") or {}).get("batch_size", 1))
        self.trial: TrialWatch | None = None  # of a trial
        self.oom_before = 0  # the kernel's count of such kills when the trainer began

    def run(self) -> str:
        """The attempt; returns how it ended, for the log."""
        earlier = self._published_already()
        if earlier is not None:
            self._enter_publishing()
            return self._prove_and_succeed(*earlier)
        if self.clock.over():
            return self.fail(self.clock.error())
        self.trial = self.parts.trials.watch(self.job)
        if self.trial is not None and self.trial.stop.is_set():
            return self._pruned()
        ending = self._train()
        if ending.stopped_for is StopReason.LOST or self.keeper.lost.is_set():
            return "lost: another attempt has it"
        self.journal.flush(force=True)
        match ending.last_word:
            case Finished() as finished:
                return self._finished(finished)
            case Failed() as failed:
                return self._failed(failed)
        return self._ended_early(ending)

    def _train(self) -> Ending:
        spec = parse_job(self.job.spec)
        self.run_dir.root.mkdir(parents=True, exist_ok=True)
        self.run_dir.spec.write_text(json.dumps(self.job.spec, indent=1))
        self.store.claims.report(self.claim, Report(), run_dir=self.run_name)
        request = training_request(
            self.job, spec, self.claim.attempt, self.run_dir, self.store, self.settings
        )
        if self.trial is not None:
            request = request.model_copy(update={"trial": self.trial.facts})
        self.oom_before = causes.oom_kills()
        strategy = spec.strategy if isinstance(spec, TrainJob) else None
        if isinstance(strategy, MultiWorkerMirroredStrategy | ParameterServerStrategy):
            try:
                return self._train_together(request, strategy)
            except StoppedWaiting as stopped:
                return Ending(None, 0, stopped.reason)
        return self._watched(self.parts.preloader.start(request, self.run_dir.log))

    def _train_together(
        self, request: TrainingRequest, strategy: MultiWorkerMirroredStrategy | ParameterServerStrategy
    ) -> Ending:
        parts = self.parts
        for _ in range(PORT_TRIES):
            with Gang(
                self.store,
                self.claim,
                self.job,
                strategy,
                settings=self.settings,
                run_dir=self.run_dir,
                gpus=parts.gpus(),
                queue=parts.queue,
                queues=parts.queues,
            ) as gang:
                elsewhere = gang.assemble(self._why_wait_no_longer, self._note_waiting)
                self.gang = gang
                if gang.waited:
                    self.clock = RunClock(self.job, self.claim)  # waiting for others was no part of the run
                    self.journal.note(stage="starting", cluster={"waiting": None})
                self.cluster = Cluster(
                    gang.starter(parts.preloader),
                    request,
                    members.seats(strategy),
                    gang.gpus,
                    self.journal.add,
                    host=members.LOCALHOST if elsewhere is None else gang.host,
                    among=self.settings.cluster_ports,
                    elsewhere=elsewhere,
                    worker=None if elsewhere is None else self.claim.worker_id,
                )
                ending = self.cluster.judged(self._watched(self.cluster))
            if not self.cluster.port_was_taken or ending.stopped_for is not None:
                break
            message = "Another program took a port of the cluster first; it is started again at other ports."
            self.journal.add(Warned(code="port_taken", message=message))
        return ending

    def _why_wait_no_longer(self) -> StopReason | None:
        if self.keeper.lost.is_set():
            return StopReason.LOST
        if self.keeper.cancel_requested.is_set():
            return StopReason.CANCEL
        return StopReason.SHUTDOWN if self.parts.told_to_stop else None

    def _note_waiting(self, here: int, needed: int) -> None:
        waiting = {"workers": here, "of": needed, "text": f"{here} of {needed}"}
        self.journal.note(stage="waiting_for_workers", cluster={"waiting": waiting})
        self.journal.flush(force=True)

    def _watched(self, program: Trainer | Cluster) -> Ending:
        self.journal.note(
            start="warm" if program.warm else "fresh",
            trainer_pid=program.pid,
            trainer_started_at=round(time.time(), 3),
        )
        try:
            return watch(
                program,
                on_event=self._on_event,
                on_tick=self._on_tick,
                stop_reason=self._stop_reason,
                grace_seconds=self.settings.grace_seconds,
            )
        finally:
            program.close()

    def _on_event(self, event: TrainingEvent) -> None:
        self.journal.add(event)
        if self.trial is not None and isinstance(event, EpochEnded):
            self.trial.epoch(event)

    def _on_tick(self) -> None:
        try:
            self.journal.flush()
        except StaleClaim:
            self.keeper.note_lost()

    def _report(self, report: Report) -> None:
        self.keeper.note_cancel(self.store.claims.report(self.claim, report))

    def _stop_reason(self) -> StopReason | None:
        if self.keeper.lost.is_set():
            return StopReason.LOST
        reason = None
        if self.keeper.cancel_requested.is_set():
            reason = StopReason.CANCEL
        elif self.clock.over():
            reason = StopReason.DEADLINE
        elif self.trial is not None and self.trial.stop.is_set():
            reason = StopReason.PRUNED
        elif self.parts.told_to_stop or (self.gang is not None and self.gang.leaving):
            reason = StopReason.SHUTDOWN
        if reason is not None:
            self.journal.note(stage="stopping")
        return reason

    def _finished(self, finished: Finished) -> str:
        final = finished.model_dump(include={"metrics", "epochs", "steps"})
        self.journal.note(final=final)
        self.journal.flush(force=True)
        if self.keeper.cancel_requested.is_set():
            return self._end(JobState.CANCELLED)
        if self.trial is not None:
            if self.trial.pruned() is not None:
                return self._pruned()
            final["values"] = self.trial.values(finished)
        if self.job.model is None or finished.export_dir is None:
            return self._end(JobState.SUCCEEDED, result=final)
        self._enter_publishing()
        export = self.run_dir.root / finished.export_dir
        version = self.parts.publisher.publish(
            self.claim, self.job, self.job.model, export, finished, self.journal.run
        )
        return self._prove_and_succeed(self.job.model, version)

    def _published_already(self) -> tuple[str, int] | None:
        """An earlier attempt may have died between publishing and the end."""
        return (
            self.store.models.published_by(self.job.id) if self.job.model and self.claim.attempt > 1 else None
        )

    def _enter_publishing(self) -> None:
        self.journal.note(stage="publishing")
        self.journal.flush(force=True)

    def _prove_and_succeed(self, model: str, version: int) -> str:
        def keep_waiting() -> bool:
            return not (self.keeper.lost.is_set() or self.parts.stopping.is_set())

        try:
            served = self.parts.publisher.prove(self.job, model, version, keep_waiting)
        except ModelyardError:
            if self.keeper.lost.is_set():
                return "lost: another attempt has it"
            if self.parts.stopping.is_set():
                return self._release(AttemptOutcome.RELEASED, None, counts=False)
            raise
        if not served:
            message = f"A later version of {model!r} was served before version {version} was loaded."
            self.journal.add(Warned(code="overtaken", message=message))
            self.journal.flush(force=True)
        result = {**self.journal.run.get("final", {}), "model": model, "version": version}
        return self._end(JobState.SUCCEEDED, result=result)

    def _failed(self, failed: Failed) -> str:
        return self.fail(JobError(failed.code, failed.message, failed.hint, failed.detail))

    def _ended_early(self, ending: Ending) -> str:
        if ending.stopped_for is StopReason.CANCEL:
            return self._end(JobState.CANCELLED)
        if ending.stopped_for is StopReason.PRUNED:
            return self._pruned()
        if ending.stopped_for is StopReason.DEADLINE:
            return self.fail(self.clock.error())
        if ending.stopped_for is StopReason.SHUTDOWN or isinstance(ending.last_word, Stopped):
            return self._release(AttemptOutcome.RELEASED, None, counts=False)
        if self.cluster is not None:
            return self.fail(self.cluster.crash(ending, oom_before=self.oom_before))
        return self.fail(
            causes.crash(
                ending.exit_code,
                oom_before=self.oom_before,
                log_file=self.run_dir.log,
                too_much=memory.too_much(self.batch_size, self.journal.run),
            )
        )

    def _pruned(self) -> str:
        assert self.trial is not None  # noqa: S101 - nothing else is pruned
        if self.trial.failed is not None:
            raise self.trial.failed
        return self._end(JobState.CANCELLED, error=self.trial.pruned())

    def _end(
        self, state: JobState, *, error: JobError | None = None, result: dict[str, Any] | None = None
    ) -> str:
        self._insist(lambda: self.store.claims.finish(self.claim, state, error=error, result=result))
        return f"{state}: {error.message}" if error else str(state)

    def fail(self, error: JobError) -> str:
        """End the attempt, and with it the job unless another one can help."""
        if error.code in ("oom_host", "oom_gpu"):
            error = replace(error, hint=memory.batch_hint(error.code, self.batch_size, self.journal.run))
        error = replace(error, detail=causes.detail(self.run_dir.log, error.detail))
        try:
            return self._release(AttemptOutcome.FAILED, error, counts=True)
        except StaleClaim:
            return "lost: another attempt has it"

    def stand_down(self, wait: StandDown) -> str:
        """Give the slot back: the job waits on the queue for the workers it needs."""
        stood: list[bool] = []
        try:
            self._insist(
                lambda: stood.append(
                    self.store.gangs.stand_down(
                        self.claim,
                        pause_seconds=wait.pause_seconds,
                        queued_until=queued_until(self.job),
                        why=str(wait),
                        tried=wait.tried,
                    )
                )
            )
        except StaleClaim:
            return "lost: another attempt has it"
        if not stood[-1]:
            return self._end(JobState.CANCELLED)
        if self.parts.queue is not None and not wait.pause_seconds:
            with contextlib.suppress(Unavailable):  # then the sweeper sends it
                self.parts.queue.send(self.job.id, self.job.queue)
        return f"stood down: {wait}"

    def _release(self, outcome: AttemptOutcome, error: JobError | None, *, counts: bool) -> str:
        states: list[JobState] = []
        self._insist(
            lambda: states.append(self.store.claims.release(self.claim, outcome, error=error, counts=counts))
        )
        return f"{outcome}, job {states[-1]}" + (f": {error.message}" if error else "")

    def _insist(self, write: Any) -> None:
        """The last word about an attempt is worth waiting for a store that is away for a moment."""
        deadline = time.monotonic() + RELEASE_TRIES_SECONDS
        while True:
            try:
                write()
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
