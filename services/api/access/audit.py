"""Writes the audit log: a JSON line at once, and a row a moment later, many in one transaction.

The lines go to ``<home>/logs/audit.jsonl``, which is opened again when it was moved away (logrotate). The rows are kept
in memory while the store does not answer; when there are too many the oldest are dropped, which the log says, and the
lines still have them.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import orjson

from shared.errors import Unavailable
from shared.store import AuditStore

log = logging.getLogger(__name__)

EVERY_SECONDS = 0.2
MOST_ROWS = 10_000
TARGET_LETTERS = 500


class AuditTrail:
    """Thread-safe; ``record`` never waits for the store."""

    def __init__(self, store: AuditStore, file: Path) -> None:
        self._store = store
        self._rows: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lines = _lines_to(file)
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def record(
        self,
        *,
        key_id: str | None,
        who: str,
        role: str | None,
        method: str,
        route: str,
        target: str,
        status: int,
        request_id: str,
        address: str | None,
        row: bool = True,
    ) -> None:
        """Write down one request; without ``row`` as a line only."""
        entry = {
            "at": time.time(),
            "key_id": key_id,
            "who": who[:200],
            "role": role,
            "method": method[:16],
            "route": route[:200],
            "target": _printable(target)[:TARGET_LETTERS],
            "status": status,
            "request_id": request_id[:128],
            "address": address[:64] if address else None,
        }
        line = orjson.dumps(entry).decode()
        self._lines.handle(logging.makeLogRecord({"msg": line, "levelno": logging.INFO}))
        if row:
            self._rows.put(entry)

    def close(self) -> None:
        """Write what is left."""
        self._rows.put(None)
        self._thread.join(5.0)
        self._lines.close()

    def _write(self) -> None:
        pending: list[dict[str, Any]] = []
        ended = False
        while not ended:
            ended = self._gather(pending)
            try:
                self._store.add(pending)
                pending = []
            except Unavailable as error:
                if len(pending) > MOST_ROWS:
                    log.error(
                        "%d rows of the audit log are lost: %s", len(pending) - MOST_ROWS, error.message
                    )
                    del pending[:-MOST_ROWS]
                time.sleep(EVERY_SECONDS)
            except Exception:
                log.exception("%d rows of the audit log can't be stored", len(pending))
                pending = []

    def _gather(self, pending: list[dict[str, Any]]) -> bool:
        """Wait for a row, and a little for more; whether it was the last."""
        deadline: float | None = None if not pending else time.monotonic() + EVERY_SECONDS
        while True:
            try:
                wait = None if deadline is None else max(0.0, deadline - time.monotonic())
                entry = self._rows.get(timeout=wait)
            except queue.Empty:
                return False
            if entry is None:
                return True
            pending.append(entry)
            if deadline is None:
                deadline = time.monotonic() + EVERY_SECONDS
            if len(pending) >= MOST_ROWS:
                return False


def _lines_to(file: Path) -> logging.Handler:
    """The file; where it can't be written, as in a container with a read-only root, standard output."""
    handler: logging.Handler
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        handler = WatchedFileHandler(file, delay=True)
    except OSError:
        handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _printable(text: str) -> str:
    """PostgreSQL's text has no NUL, and a line of the log is one line."""
    return text if text.isprintable() else text.encode("unicode_escape", "surrogatepass").decode("ascii")
