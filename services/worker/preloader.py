"""Starts training programs: warm, as forks of a process that has TensorFlow loaded, or fresh.

The warm way is the standard library's forkserver: a process of its own, never a fork of the Celery worker, that has
imported ``services.worker.training.preload`` and forks a child per job. It never runs an op nor lists devices: a
fork after that hangs (tensorflow issue 8220). Measured: 11 ms and 157 MB a start against 2.2 s and 580 MB.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from multiprocessing import forkserver, reduction
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

from services.worker.protocol import TrainingRequest

PRELOAD = "services.worker.training.preload"
log = logging.getLogger(__name__)


class Handle(Protocol):
    """What both kinds of start have in common."""

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group's."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""


class Trainer:
    """A running training program. ``events`` is the readable end of its event pipe."""

    # What another worker says of a program that it runs for this one (see ``cluster.MemberProgram``): never of ours.
    silent = False
    lost_with: str | None = None

    def __init__(self, handle: Handle, lifeline: int, events: int, *, warm: bool) -> None:
        self.pid = handle.pid
        self.events = events
        self.warm = warm
        self._handle = handle
        self._lifeline = lifeline

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._handle.poll()

    def terminate(self) -> None:
        """Ask for a checkpoint and an end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started, now."""
        for call in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                call(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Make sure that nothing of it is left. Closing the lifeline alone ends it too."""
        if self.poll() is None:
            self.kill()
        else:
            # its group lives on in what it started, such as a program that a user's code left running
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        for descriptor in (self._lifeline, self.events):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class Preloader:
    """Thread-safe. One per worker process."""

    def __init__(self, *, warm: bool) -> None:
        self._context: ForkServerContext | None = None
        self._lock = threading.Lock()
        if warm:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload([PRELOAD])

    def warm_up(self) -> None:
        """Start loading TensorFlow in the background; returns at once."""
        if self._context is not None:
            with self._lock:
                forkserver.ensure_running()

    def start(self, request: TrainingRequest, log_file: Path) -> Trainer:
        """Start a training program. Falls back to a fresh start if a warm one can't be had.

        Raises:
            OSError: not even a fresh process could be started.
        """
        descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        lifeline_out, lifeline_in = os.pipe()
        events_out, events_in = os.pipe()
        try:
            handle, warm = self._launch(lifeline_out, events_in, descriptor)
        except BaseException:
            os.close(lifeline_in)
            os.close(events_out)
            raise
        finally:
            for ours in (descriptor, lifeline_out, events_in):
                os.close(ours)
        trainer = Trainer(handle, lifeline_in, events_out, warm=warm)
        with contextlib.suppress(OSError):  # if it died already, its exit code will tell
            _write_all(lifeline_in, request.model_dump_json().encode() + b"\n")
        return trainer

    def probe(self, *, timeout: float = 120.0) -> dict[str, Any]:
        """Devices and versions as a training program would see them, from a short-lived child.

        Raises:
            OSError, ValueError: the child could not be started, or said nothing that can be read.
        """
        reader, writer = os.pipe()
        fresh: subprocess.Popen[bytes] | None = None
        try:
            if self._context is not None:
                process = self._context.Process(target=_probe_child, args=(_Descriptor(writer),))
                with self._lock:
                    process.start()
            else:
                code = f"from services.worker.training.probe import report; report({writer})"
                fresh = subprocess.Popen(
                    [sys.executable, "-c", code], pass_fds=[writer], stdin=subprocess.DEVNULL
                )
        finally:
            os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            ready, _, _ = select.select([answer], [], [], timeout)
            text = answer.read() if ready else b""
        if fresh is not None:
            fresh.kill()  # it has said all it had to say, or was too slow
            fresh.wait()
        data = json.loads(text or b"null")
        if not isinstance(data, dict):
            raise ValueError("the probe said nothing")
        return data

    def _launch(self, lifeline: int, events: int, log_descriptor: int) -> tuple[Handle, bool]:
        if self._context is not None:
            try:
                return self._launch_warm(self._context, lifeline, events, log_descriptor), True
            except (OSError, EOFError) as error:
                log.warning("no warm start (%s); starting a fresh process", error)
        return _launch_fresh(lifeline, events, log_descriptor), False

    def _launch_warm(
        self, context: ForkServerContext, lifeline: int, events: int, log_descriptor: int
    ) -> Handle:
        process = context.Process(
            target=_warm_child,
            args=(_Descriptor(lifeline), _Descriptor(events), _Descriptor(log_descriptor)),
            name="modelyard-trainer",
        )
        with self._lock:
            process.start()
        return _WarmHandle(process)


class _WarmHandle:
    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid = int(process.pid)

    def poll(self) -> int | None:
        code = self._process.exitcode
        if code == 255 and _alive(self.pid):
            # the preloader died, and with it the news about its children; the child lives on
            return None
        return code if code is None else int(code)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class _Descriptor:
    """A file descriptor that travels to the child along with its other arguments."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.descriptor),)


def _received(duplicate: Any) -> int:
    return int(duplicate.detach())


def _warm_child(lifeline: int, events: int, log_descriptor: int) -> None:
    """Runs in the forked child; its fd 1 and 2 are the preloader's until now."""
    os.setpgid(0, 0)
    os.dup2(log_descriptor, 1)
    os.dup2(log_descriptor, 2)
    os.close(log_descriptor)
    from services.worker.training.entry import main

    code = 1
    try:
        code = main(lifeline, events)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the log's disk is full
                stream.flush()
        os._exit(code)  # TensorFlow's own exit handlers can take seconds and have nothing left to do


def _probe_child(writer: int) -> None:
    from services.worker.training.probe import report

    try:
        report(writer)
    finally:
        os._exit(0)


def _launch_fresh(lifeline: int, events: int, log_descriptor: int) -> Handle:
    return subprocess.Popen(
        [sys.executable, "-m", "services.worker.training", "--events-fd", str(events)],
        stdin=lifeline,
        stdout=log_descriptor,
        stderr=log_descriptor,
        pass_fds=[events],
        start_new_session=True,
    )


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
