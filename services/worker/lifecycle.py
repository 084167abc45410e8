"""One attempt at one job: claim, run, publish, finish. The rules are in docs/architecture.md."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.worker import causes, members, memory
from services.worker.cluster import Cluster
from services.worker.code import resolve_code
from services.worker.deadline import RunClock
from services.worker.inputs import resolve_data_file, resolve_data_files, resolve_model_file, resolve_source
from services.worker.journal import Journal
from services.worker.lease import LeaseKeeper
from services.worker.preloader import Preloader, Trainer
from services.worker.protocol import Failed, Finished, RunDir, Stopped, TrainingEvent, TrainingRequest, Warned
from services.worker.publish import Publisher
from services.worker.supervision import Ending, StopReason, watch
from shared.errors import ModelyardError, StaleClaim, Unavailable
from shared.jobs import AttemptOutcome, Claim, Job, JobError, JobState
from shared.settings import Settings
from shared.specs import TrainJob, parse_job
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
    stopping: threading.Event  # the worker was told to stop
    gpus: Callable[[], Sequence[str]] = tuple  # CUDA's names of this machine's GPUs, for a cluster's members

    def run(self, job_id: str) -> None:
        """Take the job if it is there to be taken, and see it through to an end or back to the queue."""
        if self.stopping.is_set():
            return  # still queued; the sweeper sends it to somebody who stays
        taken = self.store.claims.claim(job_id, self.worker_id, self.settings.lease_seconds)
        if taken is None:
            log.debug("%s is not there to be taken", job_id)
            return
        claim, job = taken
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
        log.info("%s attempt %d %s after %.1f s", job_id, claim.attempt, ended, time.monotonic() - started)


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
        self.batch_size = int((job.spec.get("fit") or {}).get("batch_size", 1))
        self.oom_before = 0  # the kernel's count of such kills when the trainer began

    def run(self) -> str:
        """The attempt; returns how it ended, for the log."""
        earlier = self._published_already()
        if earlier is not None:
            self._enter_publishing()
            return self._prove_and_succeed(*earlier)
        if self.clock.over():
            return self.fail(self.clock.error())
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
        data_file, sha256 = resolve_data_file(spec, self.store, self.settings)
        self.run_dir.root.mkdir(parents=True, exist_ok=True)
        self.run_dir.spec.write_text(json.dumps(self.job.spec, indent=1))
        self.store.claims.report(self.claim, Report(), run_dir=self.run_name)
        home = self.settings.paths
        resume = [self.run_dir.root]
        if self.job.resume_from:
            resume.append(home.runs / self.job.resume_from)
        request = TrainingRequest(
            job_id=self.job.id,
            attempt=self.claim.attempt,
            spec=self.job.spec,
            run_dir=self.run_dir.root,
            tfds_dir=home.tfds,
            cache_dir=home.cache,
            data_file=data_file,
            data_sha256=sha256,
            data_files=resolve_data_files(spec, self.store, self.settings),
            expected_data=(self.job.run.get("reproduces") or {}).get("data"),
            code=resolve_code(self.job.run.get("code") or {}, self.settings),
            source=resolve_source(spec, self.store, self.settings),
            model_file=resolve_model_file(spec, self.store, self.settings),
            resume_dirs=resume,
        )
        self.oom_before = causes.oom_kills()
        seats = members.seats(spec.strategy) if isinstance(spec, TrainJob) else []
        if not seats:
            return self._watched(self.parts.preloader.start(request, self.run_dir.log))
        for _ in range(PORT_TRIES):
            self.cluster = Cluster(self.parts.preloader, request, seats, self.parts.gpus(), self.journal.add)
            ending = self.cluster.judged(self._watched(self.cluster))
            if not self.cluster.port_was_taken or ending.stopped_for is not None:
                break
            message = "Another program took a port of the cluster first; it is started again at other ports."
            self.journal.add(Warned(code="port_taken", message=message))
        return ending

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
        elif self.parts.stopping.is_set():
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
