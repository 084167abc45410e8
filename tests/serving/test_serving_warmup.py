"""Warm-up records run before a version is AVAILABLE, and what is wrong with them fails its load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = pytest.mark.tf


def test_all_kinds_of_records_run_before_the_version_is_available(server: Server) -> None:
    server.wait_for("good", 1)
    lines = [line for line in server.log if "/good/1" in line or "good version 1" in line]
    warmed = next(at for at, line in enumerate(lines) if "warmed up with 4 records" in line)
    available = next(at for at, line in enumerate(lines) if "AVAILABLE" in line)
    assert warmed < available


@pytest.mark.parametrize(
    ("model", "code", "part"),
    [
        ("failing", "FAILED_PRECONDITION", "record 2 of "),
        ("streamed", "UNIMPLEMENTED", "Unsupported log_type for warmup: session_run_log"),
        ("garbage", "DATA_LOSS", ""),
    ],
)
def test_unusable_records_fail_the_load(server: Server, model: str, code: str, part: str) -> None:
    server.wait_for(model, 1, "END")
    (status,) = server.client.get(f"/v1/models/{model}").json()["model_version_status"]
    assert status["status"]["error_code"] == code
    assert part in status["status"]["error_message"]
