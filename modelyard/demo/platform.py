"""``modelyard up`` as a child of the demo: started, waited for, stopped."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from modelyard.exits import Exit
from modelyard.launcher.child import Child
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.guard import check_address, free_port, prepare_home
from modelyard.launcher.state import UpState, read_state
from shared.home import Home
from shared.settings import Settings

START_SECONDS = 180.0
STOP_SECONDS = 60.0


class DemoPlatform:
    """Leaves nothing running: the kernel ends the launcher with this process, and the parts with the launcher."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.paths
        prepare_home(self.home)
        port = _usable(settings.host, settings.port)
        self._log = self.home.logs / "demo.log"
        self._log.unlink(missing_ok=True)
        argv = (
            sys.executable,
            "-P",
            "-m",
            "modelyard",
            "up",
            "--home",
            str(self.home.root),
            "--port",
            str(port),
        )
        self._child = Child("up", argv, dict(os.environ), self._log)

    def wait_ready(self) -> UpState:
        """Until every part says it is ready.

        Raises:
            LaunchError: it does not start; with the launcher's own words and exit code.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._child.ended() is None:
            state = read_state(self.home)
            if state is not None and state.ready and state.pid == self._child.pid:
                return state
            time.sleep(0.05)
        code = self._child.ended()
        self.stop()
        raise LaunchError(
            f"The platform did not start: {_error_line(self._log)}",
            exit_code=Exit.of(code or None) or Exit.PART_FAILED,
            hint=f"Logs: {self.home.logs}",
        )

    def wait_end(self) -> None:
        """Until the launcher ends by itself."""
        while self._child.ended() is None:
            time.sleep(0.2)

    def stop(self) -> None:
        """End everything in good order; returns when it is done."""
        self._child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while self._child.ended() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self._child.kill_group()
        self._child.process.wait()


def _usable(host: str, port: int) -> int:
    """``port``, or another that is free: a demo need not fail because something listens on 8000."""
    try:
        check_address(host, port)
    except LaunchError as error:
        if error.exit_code is Exit.PORT_IN_USE:
            return free_port(host)
        raise
    return port


def _error_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else (lines[-1] if lines else "it wrote nothing")


def demo_home(home: Home) -> Path:
    """Where the demo's own files go."""
    folder = home.root / "demo"
    folder.mkdir(exist_ok=True)
    return folder
