"""Refusals before anything starts: a folder that can't be used, a second launcher, a port that is taken."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.state import read_state
from shared.home import Home

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOW_DISK_MB = 1024


def prepare_home(home: Home) -> None:
    """Make the home folder and prove that it can be written.

    Raises:
        LaunchError: with the reason.
    """
    try:
        home.create()
        with tempfile.TemporaryFile(dir=home.root):
            pass
    except OSError as error:
        raise LaunchError(
            f"The home folder {home.root} can't be used: {error.strerror or error}.",
            exit_code=Exit.UNUSABLE_FOLDER,
            hint="Name another with --home, or mend its permissions.",
        ) from None


def check_allowed(paths: tuple[Path, ...], *, option: str = "--allow-path") -> None:
    """Every folder that jobs may read from must be there.

    Raises:
        LaunchError: naming the first that is not.
    """
    for path in paths:
        if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
            raise LaunchError(
                f"{path} is not a folder that can be read.",
                exit_code=Exit.UNUSABLE_FOLDER,
                hint=f"{option} names an existing folder whose files jobs may use.",
            )


def low_disk(home: Home) -> str | None:
    """A warning when little room is left."""
    free = shutil.disk_usage(home.root).free // 2**20
    return f"only {free} MB are free in {home.root}" if free < LOW_DISK_MB else None


def lock_home(home: Home) -> BaseFileLock:
    """Take the home folder for this process. The lock ends with the process, however it ends.

    Raises:
        LaunchError: another launcher has it, or the package for locks is missing.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise LaunchError(
            "This installation can talk to a Modelyard, but not run one: the package filelock is missing.",
            exit_code=Exit.MISCONFIGURED,
            hint="Install the extras: pip install 'modelyard[local,cpu]'.",
        ) from None
    lock = FileLock(home.root / "up.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        state = read_state(home)
        whose = f" (process {state.pid}, {state.url})" if state else ""
        raise LaunchError(
            f"Another `modelyard up` runs on {home.root}{whose}.",
            exit_code=Exit.ALREADY_UP,
            hint="Use that one, stop it, or name another folder with --home.",
        ) from None
    return lock


def check_address(host: str, port: int) -> None:
    """Can ``host:port`` be listened on?

    Raises:
        LaunchError: taken, not allowed, or no address of this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise LaunchError(
            f"Can't listen on {host}:{port}: {_reason(error)}.",
            exit_code=Exit.PORT_IN_USE,
            hint=f"Choose another with --port (--port 0: any free one){_holder(error)}.",
        ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this user may not use that port"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "no such address on this machine"
    return error.strerror or str(error)


def _holder(error: OSError) -> str:
    return ", or stop the program that listens there" if error.errno == errno.EADDRINUSE else ""
