"""``modelyard up`` as an operator meets it: start, refuse, restart, stop, be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from modelyard.exits import Exit
from modelyard.launcher.state import UpState, read_state
from shared.home import Home
from tests.e2e.conftest import Platform, clean_environment, start_up, stop_up, wait_up

pytestmark = pytest.mark.e2e


def refused(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard", "up", *options],
        env={**clean_environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_line(text: str) -> str:
    """The error itself, without the hint below it."""
    assert "Traceback" not in text
    return text.strip().splitlines()[0]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], UpState, Home]]:
    """A platform that the test may break."""
    process = start_up(tmp_path / "home")
    try:
        yield process, wait_up(process, tmp_path / "home"), Home(tmp_path / "home")
    finally:
        stop_up(process)


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_everything_is_ready_when_up_says_so(platform: Platform) -> None:
    with platform.client() as client:
        assert client.ready().status == "ok"
        assert any(worker.alive for worker in client.workers().items)
    assert httpx.get(f"{platform.url}/tensorboard/data/environment").status_code == 200
    assert set(platform.state.parts) == {"broker", "serving", "tensorboard", "worker", "api"}


def test_a_second_up_on_the_same_home_is_refused(platform: Platform) -> None:
    done = refused("--home", str(platform.home.root), "--port", "0")
    assert done.returncode == Exit.ALREADY_UP
    assert str(platform.state.pid) in one_line(done.stderr)


def test_a_port_in_use_is_refused_and_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = refused("--home", str(tmp_path / "home"), "--port", str(port))
    assert done.returncode == Exit.PORT_IN_USE
    assert f"127.0.0.1:{port}" in one_line(done.stderr)
    assert "--port" in done.stderr


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    done = refused("--home", str(tmp_path / "home"))
    assert done.returncode == Exit.UNUSABLE_FOLDER
    assert str(tmp_path / "home") in one_line(done.stderr)


def test_an_allowed_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    done = refused("--home", str(tmp_path / "home"), "--port", "0", "--allow-path", str(tmp_path / "none"))
    assert done.returncode == Exit.UNUSABLE_FOLDER


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = refused("--home", str(tmp_path / "home"), env={"MODELYARD_SLOTS": "many"})
    assert done.returncode == Exit.MISCONFIGURED
    assert "MODELYARD_SLOTS" in one_line(done.stderr)


def test_a_part_that_can_not_start_ends_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    (home.root / "modelyard.db").write_bytes(b"this is no database " * 1000)
    done = refused("--home", str(home.root), "--port", "0")
    assert done.returncode == Exit.PART_FAILED
    assert "store.log" in done.stderr
    assert read_state(home) is None
    assert not [p for p in psutil.process_iter(["environ"]) if _at_home(p, home)]


def _at_home(process: psutil.Process, home: Home) -> bool:
    return (process.info["environ"] or {}).get("MODELYARD_HOME") == str(home.root)


@pytest.mark.slow
def test_a_part_that_dies_is_started_again(own: tuple[subprocess.Popen[bytes], UpState, Home]) -> None:
    process, state, home = own
    victims = ("api", "serving", "worker", "broker")
    for name in victims:
        os.kill(state.parts[name], signal.SIGKILL)

    def renewed() -> bool:
        now = read_state(home)
        return (
            now is not None
            and now.ready
            and all(now.parts.get(n) not in (None, state.parts[n]) for n in victims)
        )

    wait_until(renewed)
    told = (home.logs / "up.log").read_text()
    for name in victims:
        assert f"{name:<12} was ended by SIGKILL" in told
    assert process.poll() is None


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process_behind(
    own: tuple[subprocess.Popen[bytes], UpState, Home],
) -> None:
    process, _, _ = own
    children = family(process.pid)
    assert len(children) >= 5
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    process = start_up(tmp_path / "home")
    wait_up(process, tmp_path / "home")
    children = family(process.pid)
    process.send_signal(number)
    assert process.wait(45) == Exit.OK
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    told = (tmp_path / "home" / "logs" / "up.log").read_text()
    order = [told.index(f"{name:<12} stopped") for name in ("api", "worker", "serving", "broker")]
    assert order == sorted(order)
    assert read_state(Home(tmp_path / "home")) is None


@pytest.mark.slow
def test_what_litert_can_not_answer_is_loaded_ahead(platform: Platform, digits_model: str) -> None:
    log = platform.home.logs / "serving.log"
    wait_until(lambda: f"/{digits_model}/1: TensorFlow loaded it" in log.read_text())
    assert "ahead of requests" in log.read_text()
