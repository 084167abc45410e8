"""What a waiting caller decides from a job's view, shared by both clients."""

from __future__ import annotations

import time

from modelyard.errors import JobCancelled, JobFailed, WaitTimeout
from shared.jobs import JobState
from shared.views import JobView


def raise_if_unsuccessful(view: JobView) -> None:
    """Nothing for a job that succeeded or is not over.

    Raises:
        JobFailed: with the job's own error.
        JobCancelled: somebody cancelled it.
    """
    if view.state is JobState.FAILED:
        said = view.error.message if view.error else "no error was recorded"
        raise JobFailed(f"Job {view.id} failed: {said}", view, hint=view.error.hint if view.error else None)
    if view.state is JobState.CANCELLED:
        raise JobCancelled(f"Job {view.id} was cancelled.", view)


class Patience:
    """How long to sleep between two looks at a job: briefly at first, at most a second."""

    def __init__(self, job_id: str, timeout: float | None) -> None:
        self._job_id = job_id
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._pause = 0.1

    def next_pause(self, view: JobView) -> float:
        """Seconds until the next look.

        Raises:
            WaitTimeout: the time is over.
        """
        pause, self._pause = self._pause, min(1.0, self._pause * 1.3)
        if self._deadline is None:
            return pause
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise WaitTimeout(
                f"Job {self._job_id} is still {view.state} after {self._timeout:g} s.",
                hint="It goes on; wait again, or follow it with `modelyard job` or job.follow().",
            )
        return min(pause, left)
