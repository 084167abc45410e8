"""How far the preparation of data is, told to whoever watches the job: ``run.preparing``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from services.worker.training.emitter import Emitter

EVERY_SECONDS = 0.5
LOG_SECONDS = 5.0


class Preparing:
    """Tells at most twice a second, so that it may be asked at every row. Not thread-safe.

    What the job shows: ``{"what", "phase", "unit", "done", "total", "percent", "per_second"}``, where ``total`` and
    ``percent`` are null if nobody knows, and ``unit`` is bytes or rows.
    """

    def __init__(self, emit: Emitter, what: str) -> None:
        self._emit, self._what = emit, what
        self._phase = ""
        self._began = self._next = self._next_line = 0.0

    def tell(self, phase: str, done: int, total: int | None, unit: Literal["bytes", "rows"] = "rows") -> None:
        """``done`` of ``total`` units of a phase."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began = phase, now
            self._next, self._next_line = now, now + LOG_SECONDS
        if now < self._next and done != total:
            return
        self._next = now + EVERY_SECONDS
        facts: dict[str, Any] = {
            "what": self._what,
            "phase": phase,
            "unit": unit,
            "done": done,
            "total": total,
            "percent": round(100 * min(1.0, done / total), 1) if total else None,
            "per_second": round(done / (now - self._began), 1) if now > self._began else None,
        }
        self._emit.note(preparing=facts)
        if now >= self._next_line:
            self._next_line = now + LOG_SECONDS
            print(_line(facts), flush=True)  # noqa: T201 - the job's log


def _line(facts: dict[str, Any]) -> str:
    scale, unit = (1e6, "MB") if facts["unit"] == "bytes" else (1, "rows")
    total = f" of {facts['total'] / scale:.0f}" if facts["total"] else ""
    speed = f", {facts['per_second'] / scale:.1f} {unit}/s" if facts["per_second"] else ""
    return f"{facts['what']}: {facts['phase']} {facts['done'] / scale:.0f}{total} {unit}{speed}"
