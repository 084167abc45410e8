"""``modelyard reproduce``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from modelyard.cli.follow import Follower
from modelyard.cli.options import AsJson, JobId, Url, connect
from modelyard.cli.output import console, note, print_json, print_table
from modelyard.client.outcome import raise_if_unsuccessful
from modelyard.exits import Exit
from shared.views import ReproductionView

_STYLE = {"bit_equal": "green", "within_tolerance": "yellow", "different": "red"}


def register(app: typer.Typer) -> None:
    app.command()(reproduce)


def reproduce(
    job_id: JobId,
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest difference of a metric. Default: 0.02.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Train a finished job again, and tell whether its metrics are equal.

    A job with fit.deterministic must come out equal to the last bit in the same surroundings, any other within the
    tolerance. Of a job that is itself a reproduction, the comparison is shown; nothing is trained.
    """
    with connect(url) as client:
        job = client.jobs.get(job_id)
        if job.view.reproduces is None:
            job = job.reproduce()
            note(f"{job.id} trains {job_id} again (Ctrl-C stops following, not the job)")
        view = job.wait(check=False).view if as_json else Follower(console).run(job)
        raise_if_unsuccessful(view)
        found = job.reproduction(tolerance=tolerance)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if not found.reproduced:
        raise typer.Exit(Exit.NOT_REPRODUCED)


def _show(found: ReproductionView) -> None:
    print_table(
        ("METRIC", "BEFORE", "AFTER", "DIFFERENCE"),
        (
            (name, _number(pair.before), _number(pair.after), _number(pair.difference))
            for name, pair in found.metrics.items()
        ),
    )
    words = found.outcome.replace("_", " ")
    if found.outcome == "within_tolerance":
        words += f" {found.tolerance:g}"
    weights = {True: ", weights equal to the last bit", False: ", weights not equal", None: ""}
    console.print(Text(words + weights[found.weights_equal], style=_STYLE[found.outcome]))
    if not found.deterministic:
        console.print("The job does not ask for fit.deterministic, so the last bits may differ.")
    if found.differences:
        print_table(
            ("WHAT DIFFERS", "BEFORE", "AFTER"),
            ((item.what, str(item.before), str(item.after)) for item in found.differences),
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.9g}"
