"""Shows a running study: a live table of its trials on a terminal, a line for each trial that ends in a pipe."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelyard.cli.output import number, numbers
from modelyard.client import Job
from shared.study_views import StudyView, TrialView
from shared.trials import TrialStatus
from shared.views import JobView

LOOK_SECONDS = 1.0
SHOWN_RUNNING = 12
_ENDED = (TrialStatus.COMPLETE, TrialStatus.PRUNED, TrialStatus.FAILED, TrialStatus.CANCELLED)


class StudyFollower:
    """Looks at a study again and again. The cost of a look does not grow with its trials."""

    def __init__(self, console: Console, *, every_seconds: float = LOOK_SECONDS) -> None:
        self._console = console
        self._every = every_seconds
        self._told = -1  # number of the last trial whose end was told of without a gap
        self._out_of_order: set[int] = set()

    def run(self, job: Job) -> JobView:
        """Show ``job`` until it ends, and return it as it ended."""
        if not self._console.is_terminal:
            while not job.refresh().state.terminal:
                self._tell(job)
                time.sleep(self._every)
            self._tell(job)
            return job.view
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            while not job.refresh().state.terminal:
                live.update(picture(job.view, job.study()))
                time.sleep(self._every)
        return job.view

    def _tell(self, job: Job) -> None:
        """A line for each trial that has ended since."""
        more = True
        after = self._told if self._told >= 0 else None
        while more:
            page = job.trials(after=after, limit=200)
            for trial in page.items:
                after = trial.number
                if trial.status in _ENDED and trial.number not in self._out_of_order:
                    self._out_of_order.add(trial.number)
                    self._console.print(trial_text(trial), markup=False, soft_wrap=True)
            more = page.has_more
        while self._told + 1 in self._out_of_order:
            self._told += 1
            self._out_of_order.discard(self._told)


def picture(job: JobView, study: StudyView) -> RenderableType:
    """How a running study looks on a terminal."""
    ended = sum(study.counts.get(state, 0) for state in _ENDED)
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(job.stage or str(job.state), style="bold"),
        ProgressBar(total=max(1, study.trials), completed=ended, width=28),
        f"{ended} of {study.trials} trials",
        _counts(study),
        Text("" if study.eta_seconds is None else f"{seconds(study.eta_seconds)} left", style="dim"),
    )
    rows = Table.grid(padding=(0, 2))
    for trial in study.running[:SHOWN_RUNNING]:
        progress = trial.progress
        rows.add_row(
            f"  trial {trial.number}",
            ProgressBar(total=1.0, completed=progress.fraction if progress else 0.0, width=18),
            f"epoch {progress.epoch}/{progress.epochs}" if progress else "",
            Text(number(trial.intermediate[-1][1]) if trial.intermediate else "", style="cyan"),
            Text(parameters(trial), style="dim", overflow="ellipsis", no_wrap=True),
        )
    hidden = study.counts.get(TrialStatus.RUNNING, 0) - min(SHOWN_RUNNING, len(study.running))
    if hidden > 0:
        rows.add_row(f"  and {hidden} more")
    parts: list[RenderableType] = [head, rows]
    if study.best:
        first = study.best[0]
        what = "best" if len(study.objectives) == 1 else f"front of {len(study.best)}"
        parts.append(
            Text(f"  {what}: trial {first.number}, {values(first)}  ({parameters(first)})", style="green")
        )
    return Group(*parts)


def trial_text(trial: TrialView) -> str:
    """One line about a trial."""
    parts = [f"trial {trial.number} {trial.status}"]
    if trial.values:
        parts.append(values(trial))
    elif trial.intermediate:
        epoch, value = trial.intermediate[-1]
        parts.append(f"{number(value)} at epoch {epoch}")
    if trial.error:
        parts.append(f"{trial.error.code}: {trial.error.message}")
    took = "" if trial.duration_seconds is None else f"  ({seconds(trial.duration_seconds)})"
    return f"{': '.join(parts)}  {parameters(trial)}{took}"


def parameters(trial: TrialView) -> str:
    """A trial's parameters on one line, without what all their names begin with."""
    return "  ".join(
        f"{name.removeprefix('fit.').removeprefix('model.params.')}={_value(value)}"
        for name, value in trial.params.items()
    )


def values(trial: TrialView) -> str:
    """A trial's objectives on one line."""
    return numbers(trial.values)


def seconds(value: float) -> str:
    """A duration in few characters."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _counts(study: StudyView) -> Text:
    styles = {
        "running": "cyan",
        "waiting": "yellow",
        "pruned": "dim",
        "failed": "red",
        "cancelled": "magenta",
    }
    text = Text()
    for state, style in styles.items():
        count = study.counts.get(TrialStatus(state), 0)
        if count:
            text.append(f"{count} {state}  ", style=style)
    return text


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
