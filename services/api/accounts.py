"""A request's id, its log line and its metrics, whichever way it is answered."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable

from services.api.telemetry import Telemetry
from shared.logs import bound

log = logging.getLogger("modelyard.requests")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_QUIET = ("/predict", "/v1/", "/tensorboard/")
_READING = ("GET", "HEAD", "OPTIONS")


def given_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The caller's own id, if it has one that is good."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return None


def new_id() -> str:
    """For a request without one."""
    return f"{random.getrandbits(64):016x}"


def account(
    telemetry: Telemetry,
    method: str,
    path: str,
    *,
    route: str,
    status: int,
    seconds: float,
    streamed: bool,
    request_id: str,
) -> None:
    """Count a request that was answered, and log it where that is worth a line; ``status`` 0: it had no answer."""
    telemetry.request(method, route, status, None if streamed else seconds)
    failed = status >= 400 or status == 0
    if status >= 500:
        level = logging.WARNING
    elif failed or (method not in _READING and not path.startswith(_QUIET)):
        level = logging.INFO
    else:
        level = logging.DEBUG
    if log.isEnabledFor(level):
        shown = path if path.isprintable() and len(path) <= 200 else ascii(path)[:200]
        with bound(request_id=request_id):
            log.log(level, "%s %s %d %.1f ms %s", method, shown, status, seconds * 1000, request_id)
