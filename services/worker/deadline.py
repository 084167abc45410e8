"""A job's time to run: all its attempts together, as the store's attempts tell, so that it survives restarts."""

from __future__ import annotations

import time

from shared.jobs import Claim, Job, JobError


class RunClock:
    """Counts from its making, on top of what earlier attempts took. A lost attempt counts to the end of its lease."""

    def __init__(self, job: Job, claim: Claim) -> None:
        limit = (job.spec.get("deadline") or {}).get("run_seconds")
        self._limit: float | None = limit
        self._job_id = job.id
        used = sum(
            max(0.0, attempt.finished_at - attempt.started_at)
            for attempt in job.attempts
            if attempt.number != claim.attempt and attempt.finished_at is not None
        )
        self._end = None if limit is None else time.monotonic() + limit - used

    def over(self) -> bool:
        """Whether the job has run for as long as it may."""
        return self._end is not None and time.monotonic() >= self._end

    def error(self) -> JobError:
        """What the job fails with then."""
        return JobError(
            "deadline",
            f"The job ran for the {self._limit:g} s that deadline.run_seconds allows, all attempts together.",
            hint=f"POST /jobs/{self._job_id}/retry (modelyard retry {self._job_id}) makes a new job that goes on from "
            "its checkpoint with the same time again; or submit it anew with a later deadline.",
        )
