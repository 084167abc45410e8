"""How long each step took."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

from rich.table import Table

# In the order a job goes through them.
JOB_STAGES = {
    "queued": "waiting for the worker",
    "running": "job: start the trainer",
    "starting": "job: start the program",
    "preparing_data": "job: prepare data",
    "building": "job: build the model",
    "training": "job: train",
    "evaluating": "job: evaluate",
    "exporting": "job: export",
    "publishing": "job: publish until AVAILABLE",
    "succeeded": "job: finish",
}


class Timings:
    """Seconds by step, in the order they happened."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.steps.append((name, time.monotonic() - began))

    def add_job(self, began: float, stages: dict[str, float]) -> None:
        """Stages of a followed job, by the moment each was entered."""
        entered = sorted(stages.items(), key=lambda item: item[1])
        if not entered:
            return
        self.steps.append(("submit the job", max(0.0, entered[0][1] - began)))
        for (stage, start), (_, end) in itertools.pairwise(entered):
            self.steps.append((JOB_STAGES.get(stage, f"job: {stage.replace('_', ' ')}"), end - start))

    def table(self) -> Table:
        table = Table("step", title="Where the time went", title_justify="left", box=None)
        table.add_column("seconds", justify="right")
        for name, seconds in self.steps:
            table.add_row(name, f"{seconds:.1f}")
        table.add_row("[bold]total[/bold]", f"[bold]{sum(seconds for _, seconds in self.steps):.1f}[/bold]")
        return table
