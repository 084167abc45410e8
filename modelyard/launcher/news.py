"""What the parts say happened, read from the ends of their logs, for the one line per event on the terminal."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

# All our processes log in this form: level, logger, two spaces, message.
_LINE = re.compile(r"^(INFO|WARNING|ERROR|CRITICAL) +[\w.]+ {2}(?P<message>\S.*)$")
_TONES = {"INFO": "info", "WARNING": "warn", "ERROR": "bad", "CRITICAL": "bad"}
# What the launcher says itself, and better.
_OWN = ("listening ", "ready: ", "stopping")
_MOST_BYTES = 64 * 1024  # in one look; a flood of lines is for the log, not for the terminal


class News:
    """Follows one log from its present end. Lines in another form (tracebacks, libraries' chatter) are passed over."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._at = self._size()
        self._rest = b""

    def read(self) -> Iterator[tuple[str, str]]:
        """(message, tone) of each event since the last look."""
        size = self._size()
        if size < self._at:  # rotated
            self._at, self._rest = 0, b""
        if size == self._at:
            return
        with contextlib.suppress(OSError), self._log.open("rb") as source:
            source.seek(max(self._at, size - _MOST_BYTES))
            *lines, self._rest = (self._rest + source.read()).split(b"\n")
            self._at = source.tell()
            for line in lines:
                match = _LINE.match(line.decode(errors="replace"))
                if match is not None and not match["message"].startswith(_OWN):
                    yield match["message"], _TONES[match[1]]

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0
