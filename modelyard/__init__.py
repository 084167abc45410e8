"""Modelyard from Python and the terminal: the client, the command line, the one-machine launcher, the demo.

Talks HTTP to a running platform; loads no TensorFlow and none of the services.
"""

from modelyard.client import AsyncClient, AsyncJob, Client, Ended, Event, Job, JobEvent, Progress
from modelyard.errors import (
    ApiError,
    Conflict,
    Denied,
    IdempotencyConflict,
    InvalidRequest,
    JobCancelled,
    JobEnded,
    JobFailed,
    NotFound,
    RateLimited,
    ServerError,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from shared.errors import ModelyardError

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Conflict",
    "Denied",
    "Ended",
    "Event",
    "IdempotencyConflict",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobEvent",
    "JobFailed",
    "ModelyardError",
    "NotFound",
    "Progress",
    "RateLimited",
    "ServerError",
    "Unavailable",
    "Unreachable",
    "WaitTimeout",
]
