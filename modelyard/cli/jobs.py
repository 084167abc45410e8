"""``modelyard jobs``, ``job``, ``logs``, ``cancel``, ``retry``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelyard.cli.options import After, AsJson, Follow, JobId, Limit, Url, connect
from modelyard.cli.output import (
    ago,
    more,
    note,
    print_json,
    print_table,
    state_text,
)
from modelyard.cli.show import finish, print_job
from modelyard.client import Job
from shared.jobs import JobState
from shared.views import JobView


def register(app: typer.Typer) -> None:
    for command in (jobs, job, logs, cancel, retry):
        app.command()(command)


def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, e.g. train.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs that publish this model.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs with this label: KEY or KEY=VALUE.")] = None,
    limit: Limit = 20,
    after: After = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        page = client.jobs.list(state=state, kind=kind, model=model, label=label, limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    print_table(
        ("ID", "KIND", "STATE", "STAGE", "PROGRESS", "PUBLISHES", "CREATED"),
        (
            (
                item.id,
                item.kind,
                state_text(item.state),
                item.stage or "",
                f"{item.progress.fraction:.0%}" if item.progress else "",
                _publishes(item),
                ago(item.created_at),
            )
            for item in page.items
        ),
    )
    more(page.has_more, page.items[-1].id if page.items else None)


def job(job_id: JobId, as_json: AsJson = False, url: Url = None) -> None:
    """Show one job."""
    with connect(url) as client:
        view = client.jobs.get(job_id).view
    if as_json:
        print_json(view)
    else:
        print_job(view)


def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=1, help="Only so many lines from the end.")] = None,
    member: Annotated[
        str | None, typer.Option(help="Of a member of the job's cluster, such as worker-1.")
    ] = None,
    url: Url = None,
) -> None:
    """Print a job's log: all that its training program wrote."""
    with connect(url) as client:
        found = client.jobs.get(job_id)
        if follow:
            for text in found.follow_logs(member=member):
                sys.stdout.write(text)
                sys.stdout.flush()
        else:
            sys.stdout.write(found.logs(tail=tail, member=member))


def cancel(job_id: JobId, as_json: AsJson = False, url: Url = None) -> None:
    """Ask a job to stop. A running one writes a checkpoint first."""
    with connect(url) as client:
        view = client.jobs.get(job_id).cancel().view
    if as_json:
        print_json(view)
    else:
        note(f"{view.id} is {view.state}" + ("" if view.state.terminal else ", and was asked to stop"))


def retry(
    job_id: JobId,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Start over, not from the last checkpoint.")
    ] = False,
    follow: Follow = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Run a failed or cancelled job again, as a new job."""
    with connect(url) as client:
        again: Job = client.jobs.get(job_id).retry("scratch" if scratch else "checkpoint")
        finish(again, follow=follow, as_json=as_json)


def _publishes(view: JobView) -> str:
    if view.result and view.result.model:
        return f"{view.result.model}/{view.result.version}"
    wanted = view.spec.get("publish") or {}
    return str(wanted.get("model") or "")
