"""Version folders as TensorFlow Serving sees them, and its command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Publish, Server, StartServer

pytestmark = pytest.mark.tf


def eventually(condition: Callable[[], bool], server: Server, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "".join(server.log)
        time.sleep(0.05)


def test_what_lies_in_a_base_path(start_server: StartServer, publish: Publish, tmp_path: Path) -> None:
    base = tmp_path / "m"
    base.mkdir()
    for name in ("v9", "1.5", "tmp-7"):
        (base / name).mkdir()
    publish("half_plus_two", base / "00000001")
    with start_server(
        "--model_name=m",
        f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=0.2",
        "--max_num_load_retries=0",
    ) as server:

        def answering() -> str | None:
            return server.predict("m", {"instances": [1.0]}).headers.get("x-model-version")

        server.wait_for("m", 1)
        assert server.versions("m") == {1: "AVAILABLE"}
        # A file counts as a version; it fails, and the old version serves on.
        (base / "2").write_text("")
        server.wait_for("m", 2, "END")
        (status,) = server.client.get("/v1/models/m/versions/2").json()["model_version_status"]
        assert (status["version"], status["status"]["error_code"]) == ("2", "NOT_FOUND")
        assert (server.versions("m"), answering()) == ({1: "AVAILABLE", 2: "END"}, "1")
        # A lower version changes nothing, a higher one takes over.
        (base / "2").unlink()
        publish("half_plus_two", base / "0")
        publish("half_plus_two", base / "3")
        server.wait_for("m", 3)
        server.wait_for("m", 1, "END")
        assert 0 not in server.versions("m")
        assert answering() == "3"
        # Rollback by deletion: the next one down is loaded first.
        shutil.rmtree(base / "3")
        server.wait_for("m", 3, "END")
        assert (server.versions("m")[1], answering()) == ("AVAILABLE", "1")
        # Two names of one number: one version.
        publish("half_plus_two", base / "4")
        publish("half_plus_two", base / "004")
        server.wait_for("m", 4)
        assert any("stands for version 4" in line for line in server.log)
        # A missing base path unloads nothing, an empty one everything.
        base.rename(tmp_path / "away")
        time.sleep(0.6)
        assert answering() == "4"
        base.mkdir()
        eventually(lambda: answering() is None, server)
        gone = server.predict("m", {"instances": [1.0]})
        assert (gone.status_code, gone.json()) == (
            404,
            {"error": "Servable not found for request: Latest(m)"},
        )
        publish("half_plus_two", base / "4")
        server.wait_for("m", 4)
        assert answering() == "4"


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--model_base_path=/m", "--rest_api_port=0", "--port=0"], 2, "nothing to listen on"),
        (["--model_base_path=/m", "--batching_parameters_file=/b"], 2, "needs --enable_batching"),
        (["--port=0", "--rest_api_port=auto", "--model_config_file={labels}"], 2, "Request to assign label"),
        (["--port=0", "--rest_api_port=auto", "--model_config_file={twice}"], 2, "Illegal to list model m"),
        (["--port=0", "--rest_api_port=auto", "--model_config_file={relative}"], 2, "absolute path or URI"),
        (
            ["--port=0", "--rest_api_port=auto", "--model_config_file={platform}"],
            2,
            "neither ModelServerConfig",
        ),
    ],
)
def test_starts_that_end_at_once(flags: list[str], code: int, text: str, tmp_path: Path) -> None:
    one = "config {{ name: 'm' base_path: '/m' model_platform: 'tensorflow' {0} }}"
    bodies = {
        "labels": one.format("version_labels { key: 'stable' value: 1 }"),
        "twice": one.format("") * 2,
        "relative": one.format("").replace("'/m'", "'m'"),
        "platform": one.format("").replace("model_platform: 'tensorflow'", ""),
    }
    files = {name: str(tmp_path / name) for name in bodies}
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"model_config_list {{ {body} }}")
    ended = subprocess.run(
        [sys.executable, "-m", "services.serving", *(flag.format(**files) for flag in flags)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, text in ended.stderr) == (code, True), ended.stderr
