"""What the client raises, drawn once.

ModelyardError                 code, message, hint, field
|-- ApiError                   the server refused; .status and .problem hold what it said
|   |-- InvalidRequest         400, 413, 415, 422
|   |-- Denied                 401, 403: no API key, one that is not good, or a role that may not do this
|   |-- NotFound               404
|   |-- Conflict               409
|   |   `-- IdempotencyConflict  the same key was used with another body
|   |-- Unavailable            502, 503, 504: a part the server needs does not answer
|   |   `-- RateLimited        429: too many requests of this key
|   `-- ServerError            500 and everything else
|-- Unreachable                nothing answers at the address
|-- JobEnded                   .job
|   |-- JobFailed
|   `-- JobCancelled
`-- WaitTimeout                the job goes on; only the waiting ended
"""

from __future__ import annotations

from pydantic import ValidationError

from shared.errors import ModelyardError
from shared.views import JobView, Problem


class ApiError(ModelyardError):
    """An answer of 400 or above."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail, code=problem.code, hint=problem.hint, field=problem.field)
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


class InvalidRequest(ApiError):
    """The request can't be used as given; ``field`` names the offending input where there is one."""


class NotFound(ApiError):
    """No such thing."""


class Conflict(ApiError):
    """The thing is there, but its state does not allow this."""


class IdempotencyConflict(Conflict):
    """An Idempotency-Key was used again with another body."""


class Unavailable(ApiError):
    """A part that the server needs does not answer; trying again later can help."""

    retryable = True


class RateLimited(Unavailable):
    """Too many requests of this key."""


class Denied(ApiError):
    """There is no API key, it is not good, or its role may not do this."""


class ServerError(ApiError):
    """The server's own error."""


class Unreachable(ModelyardError):
    """No answer at all."""

    code = "unreachable"
    retryable = True


class JobEnded(ModelyardError):
    """A job that was waited for ended otherwise than well."""

    def __init__(self, message: str, job: JobView, *, hint: str | None = None) -> None:
        super().__init__(message, code=job.error.code if job.error else str(job.state), hint=hint)
        self.job = job


class JobFailed(JobEnded):
    """The job failed; ``job.error`` says why."""


class JobCancelled(JobEnded):
    """Somebody cancelled the job."""


class WaitTimeout(ModelyardError, TimeoutError):
    """The time given to ``wait`` passed. The job itself goes on."""

    code = "wait_timeout"


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def error_for(status: int, body: bytes) -> ApiError:
    """The error that an answer stands for; a body that is not problem+json (a proxy's page) is quoted."""
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        text = body.decode(errors="replace").strip()[:300]
        problem = Problem(
            type="about:blank",
            title=f"HTTP {status}",
            status=status,
            detail=text or f"HTTP {status}",
            code="http_error",
        )
    if problem.code == "idempotency_conflict":
        return IdempotencyConflict(problem)
    return _BY_STATUS.get(status, ServerError)(problem)
