"""Decides what happens to a request for a job: check it, store it, send it. Knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import orjson

from services.api.code_checks import CodeChecks
from services.api.data_checks import DataChecks
from services.api.explaining import Explaining
from services.api.source_checks import SourceChecks
from services.api.study_checks import NOTHING_LEFT, StudyChecks
from shared.errors import Conflict, InvalidInput, NotFound, Unavailable
from shared.job_queue import JobQueue
from shared.jobs import Job, JobState
from shared.logs import bound_now
from shared.reproduction import compare
from shared.settings import Settings
from shared.specs import ExportJob, JobSpec, TrainJob, TuneJob, parse_job
from shared.specs.queueing import queue_of
from shared.store import Store
from shared.trials import TrialStatus

log = logging.getLogger(__name__)


class Submission:
    """Use cases around a job's beginning. Thread-safe."""

    def __init__(self, store: Store, queue: JobQueue, settings: Settings) -> None:
        self._store = store
        self._queue = queue
        self._explaining = Explaining(store, alive_within=settings.alive_within)
        self._data = DataChecks(store, settings)
        self._sources = SourceChecks(store, settings)
        self._code = CodeChecks(settings)
        self._studies = StudyChecks(store, self._check)

    def earlier(self, key: str | None, fingerprint: str) -> Job | None:
        """The job that an Idempotency-Key made before, if any.

        Raises:
            IdempotencyConflict: the key was used with another body.
        """
        return None if key is None else self._store.jobs.earlier(key, fingerprint)

    def submit(
        self,
        spec: JobSpec,
        *,
        key: str | None = None,
        fingerprint: str = "",
        retry_of: Job | None = None,
        resume: bool = False,
        reproduces: dict[str, Any] | None = None,
    ) -> Job:
        """Store a job, then send its id; a broker that is down delays the job but does not refuse it.

        Raises:
            InvalidInput: the job could not work, with the field to mend.
            IdempotencyConflict: ``key`` was used with another body.
        """
        code = self._check(spec)["code"]
        job, created = self._store.jobs.create(
            spec,
            idempotency_key=key,
            body_sha256=fingerprint,
            retry_of=retry_of.id if retry_of else None,
            request_id=_request_id(),
            resume_from=retry_of.run_dir if retry_of and resume else None,
            run={key: value for key, value in (("code", code), ("reproduces", reproduces)) if value},
        )
        if created:
            self._send(job)
        return job

    def retry(self, job_id: str, *, resume: bool, key: str | None = None) -> Job:
        """A new job with the spec of one that failed or was cancelled; ``resume``: from its last checkpoint.

        Raises:
            NotFound: no such job.
            Conflict: it has not ended, or it succeeded.
        """
        old = self._store.jobs.get(job_id)
        if old.state not in (JobState.FAILED, JobState.CANCELLED):
            ended = old.state is JobState.SUCCEEDED
            raise Conflict(
                f"The job {job_id} is {old.state}.",
                code="job_not_retryable",
                hint="Submit its spec as a new job." if ended else "Cancel it first, or wait for its end.",
            )
        mark = fingerprint_of({"retry": job_id, "resume": resume})
        known = self.earlier(key, mark)
        if known is not None:
            return known
        spec = parse_job(old.spec)
        if isinstance(spec, TuneJob) and resume:
            spec = self._continued(spec, old.id)
        return self.submit(
            spec,
            key=key,
            fingerprint=mark,
            retry_of=old,
            resume=resume,
            reproduces=old.run.get("reproduces"),
        )

    def continue_study(self, job_id: str, *, max_trials: int | None, key: str | None = None) -> Job:
        """A new tune job that goes on where an ended one stopped; ``max_trials`` more trials, or as many as before.

        Raises:
            NotFound: no such job.
            Conflict: it is no tune job, has not ended, or has tried all that there is.
        """
        old = self._store.jobs.get(job_id)
        mark = fingerprint_of({"continue": job_id, "max_trials": max_trials})
        known = self.earlier(key, mark)
        if known is not None:
            return known
        spec = parse_job(old.spec)
        if not isinstance(spec, TuneJob) or not old.state.terminal:
            raise Conflict(
                f"The job {job_id} is a {old.kind} job and {old.state}; only an ended tune job can be continued.",
                code="job_not_continuable",
                hint="Wait for its end, or cancel it."
                if old.kind == "tune"
                else "See the jobs with GET /jobs?kind=tune.",
            )
        spec = spec.model_copy(
            update={"continue_from": old.id, "enqueue": [], "max_trials": max_trials or spec.max_trials}
        )
        try:
            return self.submit(spec, key=key, fingerprint=mark)
        except InvalidInput as error:
            if error.code != NOTHING_LEFT:
                raise
            raise Conflict(error.message, code=error.code, hint=error.hint) from None

    def _continued(self, spec: TuneJob, study_id: str) -> TuneJob:
        """The rest of a study that did not come to its end."""
        study, rows = self._store.studies.since(study_id)
        done = study.complete + study.pruned
        # those that were begun and cancelled with the study are still to be tried
        tried = {row.number - study.inherited for row in rows if row.status is not TrialStatus.CANCELLED}
        enqueue = [given for index, given in enumerate(spec.enqueue) if index not in tried]
        if spec.max_trials is None and not spec.points:
            spec = spec.model_copy(update={"max_trials": spec.trials})
        left = None if spec.max_trials is None else max(1, spec.max_trials - done)
        return spec.model_copy(update={"continue_from": study_id, "enqueue": enqueue, "max_trials": left})

    def reproduce(self, job_id: str, *, key: str | None = None) -> Job:
        """A new job that trains a finished one again, on the same data and code, and publishes nothing.

        Raises:
            NotFound: no such job.
            Conflict: it has not succeeded, it trained nothing, or its code is not what it was.
        """
        old = self._store.jobs.get(job_id)
        mark = fingerprint_of({"reproduce": job_id})
        known = self.earlier(key, mark)
        if known is not None:
            return known
        spec = parse_job(old.spec)
        if old.state is not JobState.SUCCEEDED or not isinstance(spec, TrainJob):
            raise Conflict(
                f"The job {job_id} is a {old.kind} job and {old.state}; only a train job that has succeeded can be "
                "reproduced.",
                code="job_not_reproducible",
                hint="See its error, or wait for its end.",
            )
        code = self._code.check(spec)
        for name, facts in (old.run.get("code") or {}).items():
            # of a model that it began as there is nothing to compare here: the worker does
            if code.get(name, facts).get("sha256") != facts.get("sha256"):
                raise Conflict(
                    f"The code of the builder {name!r} has changed since the job {job_id} was submitted.",
                    code="code_changed",
                    hint="Bring the old code back, or submit the job's spec as a new job.",
                )
        spec = spec.model_copy(update={"publish": None})
        reproduces = {"job": old.id, "data": (old.run.get("data") or {}).get("fingerprint")}
        return self.submit(spec, key=key, fingerprint=mark, reproduces=reproduces)

    def reproduction(self, job_id: str, tolerance: float) -> dict[str, Any]:
        """How a job that reproduces another came out, as a ``ReproductionView``.

        Raises:
            NotFound: no such job, or the other is gone.
            Conflict: it reproduces nothing, or has not succeeded.
        """
        new = self._store.jobs.get(job_id)
        other = (new.run.get("reproduces") or {}).get("job")
        if other is None or new.state is not JobState.SUCCEEDED:
            raise Conflict(
                f"The job {job_id} reproduces no other job."
                if other is None
                else f"The job {job_id} is {new.state}; there is nothing to compare.",
                code="nothing_to_compare",
                hint=f"POST /jobs/{job_id}/reproduce trains it again." if other is None else "See its error.",
            )
        return compare(self._store.jobs.get(other), new, tolerance)

    def plan(self, spec: JobSpec) -> dict[str, Any]:
        """The job as it would run, as a ``PlanView``; nothing is stored.

        Raises:
            InvalidInput: as ``submit`` does.
        """
        found = self._check(spec)
        warnings = list(found.pop("warnings", ()))
        if spec.publish is None and not isinstance(spec, ExportJob):
            warnings.append("Without 'publish' the model is kept in the run's folder and is not served.")
        nobody = self._explaining.nobody_serves(queue_of(spec))
        if nobody is not None:
            warnings.append(nobody)
        return {
            "spec": spec.model_dump(mode="json"),
            "epochs": None,
            "batch_size": None,
            "dataset": None,
            "source": None,
            "trials": None,
            **found,
            "next_version": self._next_version(spec),
            "warnings": warnings,
        }

    def _check(self, spec: JobSpec) -> dict[str, Any]:
        """What is known of the job before it runs, as members of its plan."""
        if isinstance(spec, TuneJob):
            return self._studies.check(spec)
        source = self._sources.check(spec)
        known: dict[str, Any] = {
            "source": source.lineage if source else None,
            "code": dict(source.code) if source else {},
        }
        if isinstance(spec, ExportJob):
            return known
        code = known["code"] | self._code.check(spec)
        facts = self._data.check(spec)
        return {
            **known,
            "epochs": spec.fit.epochs,
            "batch_size": spec.fit.batch_size,
            "dataset": facts.described,
            "warnings": facts.warnings,
            "code": code,
        }

    def _next_version(self, spec: JobSpec) -> int | None:
        if spec.publish is None:
            return None
        try:
            return self._store.models.get(spec.publish.model).next_version
        except NotFound:
            return 1

    def _send(self, job: Job) -> None:
        try:
            self._queue.send(job.id, job.queue)
            self._store.jobs.mark_sent(job.id)
        except Unavailable as error:
            # the row is committed: the sweeper sends it
            log.warning("job %s is stored and will be sent later: %s", job.id, error.message)


def _request_id() -> str | None:
    found = bound_now().get("request_id")
    return None if found is None else str(found)


def fingerprint_of(data: Any) -> str:
    """SHA-256 of JSON data, the same for any order of keys and any white space."""
    return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()
