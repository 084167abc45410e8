"""One request id, from the client's header to the training program's log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Broker, free_port
from tests.integration.worker.conftest import Stack

pytestmark = [pytest.mark.tf, pytest.mark.slow]


def test_a_request_id_is_in_every_log_that_its_job_leaves(
    tmp_path: Path, broker: Broker, digits_job: Callable[..., dict[str, Any]]
) -> None:
    port = free_port()
    stack = Stack(tmp_path / "home", broker, log_format="json", port=port)
    stack.settings.paths.create()
    try:
        stack.start("services.api")
        stack.worker()
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            try:
                return httpx.get(f"{url}/healthz", trust_env=False).is_success
            except httpx.HTTPError:
                return False

        stack.until(up, 40)
        answer = httpx.post(
            f"{url}/jobs", json=digits_job(epochs=1), headers={"X-Request-Id": "follow-me-1"}, trust_env=False
        )
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        job = stack.succeeded(job_id)
        assert job.request_id == answer.json()["request_id"] == "follow-me-1"
        lines = [json.loads(line) for line in stack.log.read_text().splitlines() if line.startswith("{")]
        mine = [line for line in lines if line.get("request_id") == "follow-me-1"]
        assert any(line["part"] == "api" and "POST /jobs" in line["message"] for line in mine)
        of_worker = [line for line in mine if line["part"] == "worker"]
        assert of_worker, stack.log.read_text()
        (worker,) = stack.store.workers.find()
        for line in of_worker:
            assert (line["job_id"], line["attempt"], line["worker_id"]) == (job_id, 1, worker.id)
            assert {"time", "level", "logger", "message"} <= line.keys()
        log = (stack.home / "runs" / str(job.run_dir) / "job.log").read_text()
        assert f"job_id={job_id} attempt=1 request_id=follow-me-1 worker_id={worker.id}" in log
    finally:
        stack.close()
