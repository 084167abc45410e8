"""Several API processes on one port, each with a listening socket of its own.

The kernel deals connections out among sockets of one address (SO_REUSEPORT, socket(7)), and ``spread`` evens that out.
Processes behind a single socket would not share evenly: whichever wakes first takes a connection, and keeps it as long
as it is kept alive.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

from services.api.spread import Spread, lay_out
from shared.settings import Settings

log = logging.getLogger(__name__)

STEADY_SECONDS = 5.0  # a process that lived so long did start
SLOWEST_RESTART_SECONDS = 10.0
STOP_SECONDS = 15.0
PLACE = "MODELYARD_API_PLACE"  # of a process: its number and how many there are, such as 0/2
METRICS = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client adds up what its processes count


class Fleet:
    """Starts ``settings.api_processes`` processes, starts again what dies, and stops all of them together."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._members: list[_Member] = []
        self._stop = threading.Event()

    def run(self) -> int:
        """Until TERM or INT; returns the exit code: 1 if the port is taken or no process ever started."""
        try:
            _check_free(self._settings.host, self._settings.port)
        except OSError as error:
            log.error("can't listen on port %d: %s", self._settings.port, error.strerror)
            return 1
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        counts = tempfile.mkdtemp(prefix="modelyard-api-")
        try:
            size = self._settings.api_processes
            lay_out(Path(counts), size)
            self._members = [_Member(counts, f"{slot}/{size}") for slot in range(size)]
            while not self._stop.is_set():
                for member in self._members:
                    member.look()
                if all(member.hopeless for member in self._members):
                    return 1
                self._stop.wait(0.1)
        finally:
            self._end()
            shutil.rmtree(counts, ignore_errors=True)
        return 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()

    def _end(self) -> None:
        for member in self._members:
            member.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for member in self._members:
            member.wait(deadline)


class _Member:
    """One process, started again whenever it has ended."""

    def __init__(self, counts: str, place: str) -> None:
        self._env = {
            **os.environ,
            METRICS: counts,
            PLACE: place,
            "MODELYARD_API_PROCESSES": "1",
            "MODELYARD_SHARE_PORT": "true",
        }
        self._failures = 0
        self._ever_steady = False
        self._next = 0.0
        self._start()

    @property
    def hopeless(self) -> bool:
        return self._failures >= 3 and not self._ever_steady

    def _start(self) -> None:
        self._began = time.monotonic()
        # it ends when its standard input does: nothing outlives a parent that was killed
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.api"], env=self._env, stdin=subprocess.PIPE
        )

    def look(self) -> None:
        now = time.monotonic()
        code = self._process.poll()
        steady = now - self._began > STEADY_SECONDS
        if code is None:
            if steady:
                self._ever_steady, self._failures = True, 0
            return
        if not self._next:
            self._failures += 1
            log.warning("API process %d ended with code %d; it is started again", self._process.pid, code)
            self._close()
            self._next = now + min(0.2 * 2**self._failures, SLOWEST_RESTART_SECONDS)
        if now >= self._next:
            self._next = 0.0
            self._start()

    def terminate(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, deadline: float) -> None:
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def own_spread() -> Spread | None:
    """This process' place among others; None if it has none."""
    slot, _, size = os.environ.get(PLACE, "").partition("/")
    folder = os.environ.get(METRICS)
    return Spread(Path(folder), int(slot), int(size)) if size and folder else None


def shared_socket(host: str, port: int) -> socket.socket:
    """A listening socket that others of the same user may share the address of.

    Raises:
        OSError: the address is somebody else's.
    """
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def end_with_stdin() -> None:
    """Ask this process to stop as soon as its standard input ends, and end it if it has not done so in time."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            # more than once: a server that is only just starting has no ear for the first
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _check_free(host: str, port: int) -> None:
    """Without SO_REUSEPORT, so that the port of another fleet counts as taken too."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
