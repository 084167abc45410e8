"""One line per event, on the terminal and in ``<home>/logs/up.log``."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime
from pathlib import Path
from typing import TextIO

_COLOURS = {"ok": "32", "warn": "33", "bad": "31", "info": "0"}


class Journal:
    """Writes whole lines and flushes each: a script that reads our output sees events as they happen."""

    def __init__(self, log: Path, out: TextIO | None = None) -> None:
        self._log = log
        self._out = out or sys.stdout
        self._colour = self._out.isatty()

    def note(self, who: str, what: str, tone: str = "info") -> None:
        """Say that something happened to a part."""
        now = datetime.now().astimezone()
        line = f"{who:<12} {what}"
        shown = f"\x1b[{_COLOURS[tone]}m{line}\x1b[0m" if self._colour else line
        # A reader that went away (a closed pipe, a full disk) must not end the platform.
        with contextlib.suppress(OSError):
            self._out.write(f"{now:%H:%M:%S}  {shown}\n")
            self._out.flush()
        with contextlib.suppress(OSError), self._log.open("a") as sink:
            sink.write(f"{now.isoformat(timespec='milliseconds')}  {line}\n")
