"""Shows a running job: a live bar on a terminal, one line per event in a pipe."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from modelyard.cli.output import numbers
from modelyard.client import Ended, Event, Job, JobEvent
from modelyard.client import Progress as Report
from shared.views import JobView

# What an epoch shows of its metrics, at most: the bar has to fit on a line.
SHOWN_METRICS = 3


class Follower:
    """Renders the events of one job; also notes when each stage began, by this machine's clock."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self.stages: dict[str, float] = {}
        self.started = time.monotonic()

    def run(self, job: Job) -> JobView:
        """Show ``job`` until it ends, and return it as it ended."""
        self.started = time.monotonic()
        if not self._console.is_terminal:
            return self._consume(job)
        self._bar = Progress(
            TextColumn("{task.fields[stage]}", style="bold"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[where]}"),
            TextColumn("{task.fields[metrics]}", style="cyan"),
            _Left(),
            console=self._console,
            transient=True,
        )
        with self._bar:
            self._task = self._bar.add_task("", total=1.0, stage="waiting", where="", metrics="", left=None)
            return self._consume(job)

    def _consume(self, job: Job) -> JobView:
        for event in job.follow():
            if isinstance(event, Ended):
                self._enter("end")
                return event.job
            self._show(event)
        return job.view

    def _show(self, event: JobEvent) -> None:
        if isinstance(event, Report):
            self._update(
                completed=event.fraction,
                where=f"epoch {event.epoch}/{event.epochs}, step {event.step}/{event.steps}",
                metrics=_brief(dict(event.metrics)),
                left=event.eta_seconds,
            )
        elif isinstance(event, Event):
            self._show_stored(event)

    def _show_stored(self, event: Event) -> None:
        if event.type == "stage":
            stage = str(event.stage)
            told = stage in self.stages
            self._enter(stage)
            self._update(stage=stage.replace("_", " "), left=None)
            if self._bar is None and not told:
                self._line(stage.replace("_", " "))
        elif event.type == "state":
            self._enter(str(event.state))
            if self._bar is None:
                self._line(str(event.state))
        elif event.type == "epoch":
            seconds = event.data.get("seconds")
            took = f"  ({seconds:.1f} s)" if isinstance(seconds, (int, float)) else ""
            self._line(f"epoch {event.epoch}: {numbers(event.metrics)}{took}")
        elif event.type in ("warning", "cancel_requested", "attempt"):
            said = event.data.get("message") or event.type.replace("_", " ")
            self._line(f"{event.type.replace('_', ' ')}: {said}")

    def _enter(self, stage: str) -> None:
        self.stages.setdefault(stage, time.monotonic())

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _update(self, *, completed: float | None = None, **fields: Any) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=completed, **fields)


class _Left(ProgressColumn):
    """The training program's own estimate, which knows about epochs and validation."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text("" if left is None else f"{left:.0f} s left", style="dim")


def _brief(metrics: dict[str, float | None]) -> str:
    return numbers(dict(list(metrics.items())[:SHOWN_METRICS]))
