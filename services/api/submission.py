"""Decides what happens to a request for a job: check it, store it, send it. Knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import orjson

from services.api.code_checks import CodeChecks
from services.api.data_checks import DataChecks
from services.api.export_checks import ExportChecks
from shared.errors import Conflict, NotFound, Unavailable
from shared.job_queue import JobQueue
from shared.jobs import Job, JobState
from shared.settings import Settings
from shared.specs import ExportJob, JobSpec, parse_job
from shared.store import Store

log = logging.getLogger(__name__)


class Submission:
    """Use cases around a job's beginning. Thread-safe."""

    def __init__(self, store: Store, queue: JobQueue, settings: Settings) -> None:
        self._store = store
        self._queue = queue
        self._data = DataChecks(store, settings)
        self._exports = ExportChecks(store, settings)
        self._code = CodeChecks(settings)

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
            resume_from=retry_of.run_dir if retry_of and resume else None,
            run={"code": code} if code else None,
        )
        if created:
            self._send(job.id)
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
        return self.submit(parse_job(old.spec), key=key, fingerprint=mark, retry_of=old, resume=resume)

    def plan(self, spec: JobSpec) -> dict[str, Any]:
        """The job as it would run, as a ``PlanView``; nothing is stored.

        Raises:
            InvalidInput: as ``submit`` does.
        """
        found = self._check(spec)
        warnings = list(found.pop("warnings", ()))
        if spec.publish is None and not isinstance(spec, ExportJob):
            warnings.append("Without 'publish' the model is kept in the run's folder and is not served.")
        return {
            "spec": spec.model_dump(mode="json"),
            "epochs": None,
            "batch_size": None,
            "dataset": None,
            "source": None,
            **found,
            "next_version": self._next_version(spec),
            "warnings": warnings,
        }

    def _check(self, spec: JobSpec) -> dict[str, Any]:
        """What is known of the job before it runs, as members of its plan."""
        if isinstance(spec, ExportJob):
            return {"source": self._exports.check(spec).lineage, "code": {}}
        code = self._code.check(spec)
        facts = self._data.check(spec)
        return {
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

    def _send(self, job_id: str) -> None:
        try:
            self._queue.send(job_id)
            self._store.jobs.mark_sent(job_id)
        except Unavailable as error:
            # the row is committed: the sweeper sends it
            log.warning("job %s is stored and will be sent later: %s", job_id, error.message)


def fingerprint_of(data: Any) -> str:
    """SHA-256 of JSON data, the same for any order of keys and any white space."""
    return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()
