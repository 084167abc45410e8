"""What commands print: tables for people on stdout, JSON for scripts, notes and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.jobs import JobState

console = Console(highlight=False, soft_wrap=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

STATE_STYLE = {
    JobState.QUEUED: "yellow",
    JobState.RUNNING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "magenta",
}


def print_json(value: BaseModel | Any) -> None:
    """Plain JSON, unwrapped and uncoloured, whatever the terminal."""
    text = value.model_dump_json(indent=2) if isinstance(value, BaseModel) else json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; cells are text or ``Text``. Into a pipe, ids are never folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # an id that is cut or folded can't be copied
        table.add_column(column, no_wrap=column in ("ID", "JOB"), overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    wide = console if console.is_terminal else Console(highlight=False, width=240)
    wide.print(table)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Name and value, one a line; empty values are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, "", {}, [], False):
            grid.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    console.print(grid)


def note(text: str) -> None:
    """Something for a person, out of a script's way."""
    errors.print(text, style="dim", markup=False)


def more(has_more: bool, last: str | int | None) -> None:
    """Say how to see the next page."""
    if has_more:
        note(f"There are more: --after {last}")


def state_text(state: JobState) -> Text:
    return Text(str(state), style=STATE_STYLE[state])


def ago(moment: datetime | None) -> str:
    """Roughly how long since."""
    if moment is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def number(value: float | None) -> str:
    """A metric in few characters."""
    return "not finite" if value is None else f"{value:.4g}"


def numbers(values: dict[str, Any]) -> str:
    """Metrics on one line."""
    return "  ".join(
        f"{name} {number(value) if isinstance(value, (int, float)) or value is None else value}"
        for name, value in values.items()
    )


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return str(count)
