"""What a server answers, for clients over a transport that is a function."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx

from modelyard import Client

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat()
JOB = "job_0123456789abcdefghjkmn"
SPEC = {"model": {"builder": "lenet5"}, "dataset": {"tfds": "fashion_mnist"}}


def job_body(**changes: Any) -> dict[str, Any]:
    return {
        "id": JOB, "kind": "train", "name": None, "state": "queued", "stage": None, "labels": {}, "spec": SPEC,
        "created_at": NOW, "started_at": None, "finished_at": None, "cancel_requested": False, "attempt": 0,
        "max_attempts": 3, "worker_id": None, "progress": None, "metrics": {}, "run": {}, "error": None,
        "result": None, "retry_of": None, "links": {}, "something_new": 1, **changes,
    }  # fmt: skip


def problem(status: int, code: str = "some_code", **more: Any) -> httpx.Response:
    body = {
        "type": "about:blank",
        "title": "No",
        "status": status,
        "detail": "It is so.",
        "code": code,
        **more,
    }
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


def client_for(*answers: httpx.Response | Exception) -> tuple[Client, list[httpx.Request]]:
    """A client whose requests are answered one after the other; the last answer repeats."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = answers[min(len(seen), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client("http://test", transport=httpx.MockTransport(handle)), seen
