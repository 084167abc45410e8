"""A job on the terminal: shown as it is, or followed to its end."""

from __future__ import annotations

import sys

from modelyard.cli.follow import Follower
from modelyard.cli.output import ago, console, note, numbers, print_facts, print_json, state_text
from modelyard.client import Job
from modelyard.client.outcome import raise_if_unsuccessful
from shared.views import JobView, PlanView


def finish(job: Job, *, follow: bool, as_json: bool) -> None:
    """What a command does with a job it made: print its id, or show it to its end and exit by how it ended."""
    if not follow:
        if as_json:
            print_json(job.view)
        else:
            sys.stdout.write(f"{job.id}\n")
            shown = f"study {job.id} --follow" if job.view.kind == "tune" else f"logs -f {job.id}"
            note(f"Follow it with: modelyard {shown}")
        return
    note(f"{job.id} (Ctrl-C stops following, not the job)")
    view = Follower(console).run(job) if not as_json else job.wait(check=False).view
    if as_json:
        print_json(view)
    else:
        print_job(view)
    raise_if_unsuccessful(view)


def print_plan(plan: PlanView, *, as_json: bool) -> None:
    """What ``--dry-run`` answers."""
    if as_json:
        print_json(plan)
    else:
        print_facts(plan.model_dump(exclude={"spec"}).items())


def print_job(view: JobView) -> None:
    """A job for a person."""
    progress = view.progress
    result = view.result
    print_facts(
        (
            ("job", view.id),
            ("name", view.name),
            ("kind", view.kind),
            ("state", state_text(view.state)),
            ("stage", view.stage),
            (
                "progress",
                progress
                and (
                    f"{progress.fraction:.0%}"
                    if view.kind == "tune"
                    else f"epoch {progress.epoch}/{progress.epochs}, "
                    f"step {progress.step}/{progress.steps}, {progress.fraction:.0%}"
                ),
            ),
            ("metrics", numbers(view.metrics.get("latest") or {})),
            ("result", result and numbers(result.metrics)),
            ("published", result and result.model and f"{result.model} version {result.version}"),
            ("attempt", view.kind != "tune" and f"{view.attempt} of {view.max_attempts}"),
            ("worker", view.worker_id),
            ("retry of", view.retry_of),
            ("labels", view.labels and "  ".join(f"{key}={value}" for key, value in view.labels.items())),
            ("created", ago(view.created_at)),
            ("took", _took(view)),
        )
    )
    if view.error:
        console.print(f"\n{view.error.code}: {view.error.message}", style="red", markup=False)
        if view.error.hint:
            console.print(view.error.hint, markup=False)
        if view.error.detail:
            console.print(view.error.detail, style="dim", markup=False)


def _took(view: JobView) -> str | None:
    if view.started_at is None or view.finished_at is None:
        return None
    return f"{(view.finished_at - view.started_at).total_seconds():.1f} s"
