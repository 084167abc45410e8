"""A locked platform of its own: the page's commands, browsers' way in, and who listens where."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from modelyard import Client, Denied
from modelyard.exits import Exit
from modelyard.launcher.state import UpState
from tests.e2e.conftest import clean_environment, start_up, stop_up, wait_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Locked:
    state: UpState
    home: Path
    folder: Path
    key: str
    said: str  # by the page's commands


def _run(script: str, folder: Path, **env: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={
            **clean_environment(),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **env,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """Started after the page's first block has made a key; its second block has run."""
    folder = tmp_path_factory.mktemp("locked")
    home = folder / "home"
    first, second = (block for block in _BLOCK.findall(PAGE.read_text()) if "keys create" in block)
    _run(first, folder, MODELYARD_HOME=str(home))
    process = start_up(home, "--host", "0.0.0.0")
    try:
        state = wait_up(process, home)
        env = {"MODELYARD_URL": state.url, "MODELYARD_API_KEY_FILE": str(folder / "admin.key")}
        said = _run(second.replace("curl -s", "curl -fs"), folder, **env)
        yield Locked(state, home, folder, (folder / "admin.key").read_text().strip(), said)
    finally:
        stop_up(process)


def test_no_address_that_others_reach_without_a_key(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        process = start_up(tmp_path / "home", "--host", host)
        assert process.wait(60) == Exit.OPEN_TO_ALL
    said = (tmp_path / "home.up.log").read_text()
    assert "no API key" in said
    assert "modelyard keys create --local --role admin" in said
    alone = subprocess.run(
        [sys.executable, "-m", "services.api"],
        env={
            **clean_environment(),
            "PYTHONPATH": str(PAGE.parents[1]),
            "MODELYARD_HOME": str(tmp_path / "home"),
            "MODELYARD_HOST": "0.0.0.0",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert alone.returncode == 3
    assert "no API key" in alone.stderr


def test_the_pages_commands_run(locked: Locked) -> None:
    assert "shop" in locked.said
    assert "/keys/key_" in locked.said
    assert (locked.folder / "admin.key").stat().st_mode & 0o777 == 0o600


def test_the_client_needs_a_key_and_has_it_from_the_environment(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(locked.state.url) as client, pytest.raises(Denied, match="API key"):
        client.jobs.list()
    monkeypatch.setenv("MODELYARD_API_KEY_FILE", str(locked.folder / "admin.key"))
    with Client(locked.state.url) as client:
        assert client.whoami().role == "admin"
        assert client.workers().items[0].alive
        assert [item for item in client.audit().items if item.method == "DELETE"]
        assert "shop" in {item.name for item in client.keys.list().items if not item.live}


def test_tensorboard_opens_after_a_login(locked: Locked) -> None:
    with httpx.Client(base_url=locked.state.url, follow_redirects=True, timeout=60) as browser:
        page = browser.get("/tensorboard/", headers={"Accept": "text/html"})
        assert page.url.path == "/login"
        assert browser.get("/tensorboard/data/environment").status_code == 401
        board = browser.post("/session", data={"key": locked.key, "next": "/tensorboard/"})
        assert board.url.path == "/tensorboard/"
        assert "<tf-tensorboard" in board.text or "TensorBoard" in board.text
        policy = board.headers["content-security-policy"]
        assert "frame-ancestors 'self'" in policy
        assert "script-src" in policy
        assert browser.get("/tensorboard/data/environment").json()["data_location"]
        assert browser.get("/v1/models/nobody").status_code == 404


def test_internal_servers_listen_on_loopback_only(locked: Locked) -> None:
    port = int(locked.state.url.rpartition(":")[2])
    listening = set()
    for name, pid in locked.state.parts.items():
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for connection in each.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    listening.add((name, connection.laddr.ip, connection.laddr.port))
    assert {name for name, _, _ in listening} >= {"broker", "serving", "tensorboard", "api"}
    assert ("api", "0.0.0.0", port) in listening
    assert {ip for _, ip, number in listening if number != port} == {"127.0.0.1"}, listening
    broker = next(number for name, _, number in listening if name == "broker")
    with httpx.Client() as plain, pytest.raises(httpx.HTTPError):
        plain.get(f"http://127.0.0.1:{broker}/")


def test_the_key_is_in_no_file_but_its_own(locked: Locked) -> None:
    for file in locked.home.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert locked.key.rsplit("_", 1)[1].encode() not in file.read_bytes(), file
