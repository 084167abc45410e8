"""One request, described without sending it: what both clients share."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel

from modelyard.errors import Unreachable, error_for

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

MAX_TRIES = 4
_BUSY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Call(Generic[T]):
    """``repeatable``: sending it twice has the effect of sending it once, so a lost answer may be asked for again."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    data: Mapping[str, str] | None = None
    files: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    checked: bool = True  # False: an error status is read like any answer
    timeout: float | None = None  # seconds; None: the client's own

    def arguments(self, default_timeout: float) -> dict[str, Any]:
        """Keyword arguments for httpx' ``build_request``."""
        wanted = {
            "params": {key: value for key, value in self.params.items() if value is not None},
            "headers": dict(self.headers),
            "json": self.json,
            "data": self.data,
            "files": self.files,
            "timeout": httpx.Timeout(self.timeout or default_timeout, connect=min(5.0, default_timeout)),
        }
        return {key: value for key, value in wanted.items() if value is not None}

    def pause_before_retry(self, tries: int, failure: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds to wait before the next try, or None when this was the last."""
        if tries >= MAX_TRIES:
            return None
        if isinstance(failure, httpx.Response):
            if failure.status_code not in _BUSY or not self.repeatable:
                return None
            asked = failure.headers.get("retry-after", "")
            if asked.isdigit():
                return min(float(asked), 30.0)
        elif not (self.repeatable or isinstance(failure, httpx.ConnectError)):
            # only a request that never got through may be sent again unconditionally
            return None
        return float(0.1 * 2**tries * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries, no secret)


def model(kind: type[M]) -> Callable[[httpx.Response], M]:
    """Read an answer's JSON as ``kind``."""
    return lambda response: kind.model_validate_json(response.content)


def nothing(_response: httpx.Response) -> None:
    """For answers without a body."""


def check(response: httpx.Response) -> httpx.Response:
    """Return a good answer that was read to its end.

    Raises:
        ApiError: of the kind that the status stands for.
    """
    if response.status_code >= 400:
        raise error_for(response.status_code, response.content)
    return response


def unreachable(base_url: httpx.URL | str, error: Exception) -> Unreachable:
    """What to raise when no answer came."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return Unreachable(
            f"{base_url} did not answer in time.", hint="Try again, or raise the client's timeout."
        )
    return Unreachable(
        f"Nothing answers at {base_url}: {error or type(error).__name__}.",
        hint="Start Modelyard with `modelyard up`, or name its address with MODELYARD_URL or --url.",
    )
