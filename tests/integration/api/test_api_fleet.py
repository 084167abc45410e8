"""Several API processes on one port, as real processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from shared.store import migrate
from tests.conftest import free_port

ROOT = Path(__file__).parents[3]


class Fleet:
    """Two API processes and their parent."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MODELYARD_HOME": str(home),
            "MODELYARD_PORT": str(self.port),
            "MODELYARD_API_PROCESSES": "2",
            "MODELYARD_BROKER_URL": "redis://127.0.0.1:1/0",
            "MODELYARD_LOG_LEVEL": "ERROR",
        }
        migrate(f"sqlite:///{home}/modelyard.db")
        self.parent = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "services.api"], env=self.env, cwd=ROOT)

    def members(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.parent.pid).children()}

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def listening(self) -> int:
        """How many sockets listen on the port."""
        return sum(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
            for connection in psutil.net_connections("tcp")
        )


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("fleet"))
    yield running
    running.parent.terminate()
    running.parent.wait(30)


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    """Whole and running: the one of the test before, unless that ended it."""
    if started.parent.poll() is not None:
        started.parent = started.start()
    wait_until(lambda: started.listening() == 2 and started.answers())
    return started


def test_connections_are_dealt_out_and_counted_together(fleet: Fleet) -> None:
    before = _counted(fleet)
    for _ in range(40):
        httpx.get(f"{fleet.url}/readyz", timeout=30)  # a connection each
    assert [_counted(fleet) - before for _ in range(6)] == [40] * 6, "whichever process is asked"
    times = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in fleet.members()]
    assert len(times) == 2


def test_connections_that_stay_are_dealt_out_evenly(fleet: Fleet) -> None:
    def held() -> list[int]:
        return sorted(
            sum(one.laddr.port == fleet.port and one.status == psutil.CONN_ESTABLISHED for one in of)
            for of in (psutil.Process(pid).net_connections("tcp") for pid in fleet.members())
        )

    with contextlib.ExitStack() as stack:
        for number in range(1, 31):
            client = stack.enter_context(httpx.Client(base_url=fleet.url, timeout=30))
            assert client.get("/healthz").status_code == 200
            if number % 10 == 0:
                fewer, more = held()
                assert fewer + more == number
                assert more - fewer <= 2, "another may be passed on while one closes"
    wait_until(lambda: held() == [0, 0])
    clients = [socket.create_connection(("127.0.0.1", fleet.port), timeout=30) for _ in range(40)]
    for client in clients:  # at once
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    for client in clients:
        assert client.recv(12) == b"HTTP/1.1 200"
    fewer, more = held()
    assert fewer + more == 40
    assert more - fewer <= 8
    for client in clients:
        client.close()


def test_a_member_that_dies_is_replaced_and_none_outlives_the_parent(fleet: Fleet) -> None:
    victim = sorted(fleet.members())[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(fleet.members() - {victim}) == 2 and fleet.listening() == 2)
    assert all(fleet.answers() for _ in range(20))
    second = fleet.start()
    assert second.wait(30) == 1, "the port is taken"
    members = fleet.members()
    fleet.parent.kill()
    fleet.parent.wait(10)
    wait_until(lambda: not any(psutil.pid_exists(pid) and _alive(pid) for pid in members))
    assert fleet.listening() == 0


def test_a_fleet_stops_when_it_is_told_to(fleet: Fleet) -> None:
    fleet.parent.terminate()
    assert fleet.parent.wait(30) == 0
    assert fleet.listening() == 0


def _counted(fleet: Fleet) -> int:
    text = httpx.get(f"{fleet.url}/metrics", timeout=30).text
    found = re.findall(r'^modelyard_http_requests_total\{[^}]*route="/readyz"[^}]*\} (\S+)$', text, re.M)
    return int(sum(map(float, found)))


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_member_whose_parent_is_killed_while_it_starts_ends_too(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path}/modelyard.db")
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MODELYARD_HOME": str(tmp_path),
        "MODELYARD_PORT": str(free_port()),
        "MODELYARD_BROKER_URL": "redis://127.0.0.1:1/0",
        "MODELYARD_SHARE_PORT": "true",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    # its standard input has ended before it listens to signals
    member = subprocess.Popen(
        [sys.executable, "-m", "services.api"], env=env, cwd=ROOT, stdin=subprocess.DEVNULL
    )
    try:
        assert member.wait(60) in (0, 1)
    finally:
        member.kill()
        member.wait()
