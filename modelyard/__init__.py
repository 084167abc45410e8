"""Modelyard from Python and the terminal: the client, the command line, the one-machine launcher, the demo.

Talks HTTP to a running platform; loads no TensorFlow and none of the services.
"""

from modelyard.client import AsyncClient, AsyncJob, Client, Ended, Event, Job, JobEvent, Progress
from modelyard.errors import (
    ApiError,
    Conflict,
    IdempotencyConflict,
    InvalidRequest,
    JobCancelled,
    JobEnded,
    JobFailed,
    NotFound,
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
    "ServerError",
    "Unavailable",
    "Unreachable",
    "WaitTimeout",
]
