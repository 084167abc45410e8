"""``modelyard explain``, ``priority``, ``projects``, ``limit``, ``workers``, ``workers drain``, ``workers undrain``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from modelyard.cli.options import AsJson, JobId, Url, connect
from modelyard.cli.output import ago, note, print_facts, print_json, print_table, state_text
from modelyard.devices import describe_device
from shared.errors import InvalidInput
from shared.views import WorkerView

workers = typer.Typer(help="List workers with their devices; drain one.", invoke_without_command=True)
WorkerId = Annotated[
    str, typer.Argument(metavar="WORKER", help="A worker's id, as `modelyard workers` prints it.")
]


def register(app: typer.Typer) -> None:
    for command in (explain, priority, projects, limit):
        app.command()(command)
    app.add_typer(workers, name="workers")


def explain(job_id: JobId, as_json: AsJson = False, url: Url = None) -> None:
    """Say why a job waits and about how long, or what it does."""
    with connect(url) as client:
        found = client.jobs.get(job_id).explain()
    if as_json:
        print_json(found)
        return
    print_facts(
        (
            ("job", found.id),
            ("state", state_text(found.state)),
            ("queue", found.queue),
            ("project", found.project),
            ("priority", str(found.priority)),
            *(("because" if number == 0 else "and", one.message) for number, one in enumerate(found.reasons)),
            ("ahead", None if found.ahead is None else str(found.ahead)),
            ("starts in about", _seconds(found.starts_in_seconds)),
            ("ends in about", _seconds(found.ends_in_seconds)),
        )
    )


def priority(
    job_id: JobId,
    value: Annotated[int, typer.Argument(metavar="PRIORITY", min=-100, max=100, help="Higher comes first.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Change the priority of a job, or of a study and its trials. Negative ones go after `--`."""
    with connect(url) as client:
        view = client.jobs.get(job_id).set_priority(value).view
    if as_json:
        print_json(view)
    else:
        note(f"{view.id} has priority {view.priority}")


def projects(as_json: AsJson = False, url: Url = None) -> None:
    """List projects with what they have waiting and running."""
    with connect(url) as client:
        page = client.projects()
    if as_json:
        print_json(page)
        return
    print_table(
        ("PROJECT", "RUNNING", "LIMIT", "QUEUED"),
        (
            (one.name, one.running, "" if one.max_running is None else one.max_running, one.queued)
            for one in page.items
        ),
    )


def limit(
    project: Annotated[str, typer.Argument(metavar="PROJECT")],
    value: Annotated[str, typer.Argument(metavar="JOBS", help="How many may run at once, or `none`.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Limit how many jobs of a project run at once."""
    if value != "none" and not value.isdigit():
        raise InvalidInput(f"{value!r} is neither a number of jobs nor 'none'.", field="JOBS")
    with connect(url) as client:
        view = client.set_project(project, max_running=None if value == "none" else int(value))
    if as_json:
        print_json(view)
    else:
        allowed = "any number of" if view.max_running is None else f"at most {view.max_running}"
        note(f"{view.name} may run {allowed} jobs; {view.running} run, {view.queued} wait")


@workers.callback()
def list_workers(context: typer.Context, as_json: AsJson = False, url: Url = None) -> None:
    """List workers with their devices; drain one."""
    if context.invoked_subcommand is not None:
        return
    with connect(url) as client:
        page = client.workers()
    if as_json:
        print_json(page)
        return
    print_table(
        ("WORKER", "ALIVE", "JOBS", "QUEUES", "DEVICES", "TENSORFLOW", "STARTED"),
        (
            (
                item.id,
                _alive(item),
                f"{len(item.jobs)} of {item.slots}",
                ", ".join(item.queues),
                ", ".join(map(describe_device, item.info.get("devices") or [])),
                (item.info.get("versions") or {}).get("tensorflow", ""),
                ago(item.started_at),
            )
            for item in page.items
        ),
    )


@workers.command()
def drain(
    worker_id: WorkerId,
    now: Annotated[
        bool, typer.Option("--now", help="Its jobs write a checkpoint and go back to the queue.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Have a worker take no more jobs; it finishes those it has."""
    with connect(url) as client:
        view = client.drain(worker_id, now=now)
    _say(view, f"{view.id} takes no more jobs; it has {len(view.jobs)}", as_json)


@workers.command()
def undrain(worker_id: WorkerId, as_json: AsJson = False, url: Url = None) -> None:
    """Have a drained worker take jobs again."""
    with connect(url) as client:
        view = client.undrain(worker_id)
    _say(view, f"{view.id} takes jobs again", as_json)


def _say(view: WorkerView, text: str, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        note(text)


def _alive(worker: WorkerView) -> Text:
    if not worker.alive:
        return Text(f"no, last {ago(worker.heartbeat_at)}", style="red")
    return Text("draining", style="yellow") if worker.draining else Text("yes", style="green")


def _seconds(value: float | None) -> str | None:
    if value is None:
        return None
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s"
