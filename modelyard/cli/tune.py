"""``modelyard tune``, ``trials``, ``study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from modelyard import plots
from modelyard.cli.options import AsJson, DryRun, Follow, JobId, JobName, Limit, Url, connect
from modelyard.cli.output import (
    console,
    more,
    note,
    number,
    print_facts,
    print_json,
    print_table,
    size,
    state_text,
)
from modelyard.cli.show import finish, print_job, print_plan
from modelyard.cli.study_follow import StudyFollower, parameters, seconds, trial_text, values
from modelyard.cli.train import overlay, read_spec
from modelyard.client import Job
from modelyard.client.outcome import raise_if_unsuccessful
from shared.study_views import (
    HistoryView,
    ImportanceView,
    ParallelView,
    StudyView,
    TrialOrder,
    TrialView,
)
from shared.trials import TrialStatus


def register(app: typer.Typer) -> None:
    for command in (tune, trials, study):
        app.command()(command)


def tune(
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC.json", help="A study as JSON; '-' reads standard input.")
    ],
    max_trials: Annotated[int | None, typer.Option(min=1)] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Trials at once.")] = None,
    publish: Annotated[str | None, typer.Option(help="Serve the best trial under this name.")] = None,
    name: JobName = None,
    follow: Follow = False,
    dry_run: DryRun = False,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Sent again with the same key: the same study.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit a study. Prints its id; with --follow, shows its trials until it ends."""
    flags = {"max_trials": max_trials, "parallel": parallel, "publish": {"model": publish}, "name": name}
    body = overlay({**read_spec(spec), "kind": "tune"}, flags)
    with connect(url) as client:
        if dry_run:
            print_plan(client.jobs.plan(body), as_json=as_json)
            return
        job = client.jobs.submit(body, idempotency_key=key)
        if not follow or as_json:
            finish(job, follow=follow, as_json=as_json)
            return
        note(f"{job.id} (Ctrl-C stops following, not the study)")
        _follow(job)


def trials(
    job_id: JobId,
    sort: Annotated[
        TrialOrder, typer.Option(help="What to sort by; by value the best come first.")
    ] = "number",
    descending: Annotated[
        bool | None, typer.Option("--descending/--ascending", help="Instead of the usual direction.")
    ] = None,
    status: Annotated[TrialStatus | None, typer.Option(help="Only trials that stand so.")] = None,
    limit: Limit = 20,
    after: Annotated[int | None, typer.Option(min=0, help="Show what follows this trial.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List a study's trials."""
    with connect(url) as client:
        page = client.jobs.get(job_id).trials(
            sort=sort, descending=descending, status=status, limit=limit, after=after
        )
    if as_json:
        print_json(page)
        return
    _print_trials(page.items)
    more(page.has_more, page.items[-1].number if page.items else None)


def study(
    job_id: JobId,
    plot: Annotated[Path | None, typer.Option(help="Write a picture: a .png, .svg or .pdf.")] = None,
    kind: Annotated[
        Literal["history", "importance", "parallel"], typer.Option(help="What the picture, or --json, shows.")
    ] = "history",
    objective: Annotated[str | None, typer.Option(help="The metric, where a study has several.")] = None,
    follow: Follow = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: how it stands, or with --plot the picture's numbers.")
    ] = False,
    url: Url = None,
) -> None:
    """Show how a study stands, or draw it."""
    target = plots.checked_target(plot) if plot else None
    with connect(url) as client:
        job = client.jobs.get(job_id)
        if target is not None:
            _draw(job, kind, objective, target, as_json=as_json)
        elif follow:
            job.study()  # says so if it is none
            _follow(job)
        elif as_json:
            print_json(job.study())
        else:
            _print_study(job.study())


def _draw(job: Job, kind: str, objective: str | None, target: Path, *, as_json: bool) -> None:
    shown: HistoryView | ImportanceView | ParallelView
    match kind:
        case "importance":
            shown = job.importance(objective)
            figure = plots.importance(shown)
        case "parallel":
            shown = job.parallel(max_lines=2000)
            figure = plots.parallel(shown)
        case _:
            shown = job.study_history(objective)
            figure = plots.history(shown)
    plots.save(figure, target)
    if as_json:
        print_json(shown)
    note(f"{target} ({size(target.stat().st_size)})")


def _follow(job: Job) -> None:
    view = StudyFollower(console).run(job)
    print_job(view)
    _print_best(job.study())
    raise_if_unsuccessful(view)


def _print_study(view: StudyView) -> None:
    counts = "  ".join(f"{count} {state}" for state, count in view.counts.items() if count)
    print_facts(
        (
            ("study", view.id),
            ("state", state_text(view.state)),
            ("objective", ", ".join(f"{item.mode} {item.metric}" for item in view.objectives)),
            ("sampler", view.sampler),
            ("pruner", view.pruner),
            ("trials", f"{sum(view.counts.values())} of {view.trials}: {counts}"),
            ("per trial", view.seconds_per_trial and seconds(view.seconds_per_trial)),
            ("left", view.eta_seconds and seconds(view.eta_seconds)),
        )
    )
    for trial in view.running:
        console.print(trial_text(trial), markup=False)
    _print_best(view)


def _print_best(view: StudyView) -> None:
    if view.best:
        console.print("\nbest" if len(view.objectives) == 1 else "\nPareto front", style="bold")
        _print_trials(view.best)


def _print_trials(items: list[TrialView]) -> None:
    print_table(
        ("TRIAL", "STATUS", "VALUE", "EPOCHS", "TOOK", "PARAMETERS", "JOB"),
        (
            (
                item.number,
                str(item.status),
                values(item) or (number(item.intermediate[-1][1]) if item.intermediate else ""),
                item.intermediate[-1][0] if item.intermediate else "",
                "" if item.duration_seconds is None else seconds(item.duration_seconds),
                parameters(item),
                item.job_id,
            )
            for item in items
        ),
    )
