"""``modelyard checkpoints``, ``tensorboard``: what lies in jobs' runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelyard.cli.options import AsJson, JobId, Url, connect
from modelyard.cli.output import ago, note, numbers, print_json, print_table, size
from shared.views import CheckpointView


def register(app: typer.Typer) -> None:
    for command in (checkpoints, tensorboard):
        app.command()(command)


def checkpoints(job_id: JobId, as_json: AsJson = False, url: Url = None) -> None:
    """List a job's checkpoints, newest first, each compared with its SHA-256."""
    with connect(url) as client:
        found = client.jobs.get(job_id).checkpoints()
    if as_json:
        print_json(found)
        return
    print_table(
        ("FILE", "EPOCH", "STEP", "SIZE", "STATE", "METRICS", "WRITTEN"),
        (
            (
                item.path,
                "" if item.epoch is None else item.epoch,
                "" if item.total is None else item.total,
                size(item.size_bytes),
                _state(item),
                numbers(item.metrics),
                ago(item.written_at) if item.written_at else "",
            )
            for item in found.items
        ),
    )


def _state(item: CheckpointView) -> str:
    words = [
        "best" if item.best else "",
        "complete" if item.complete else "",
        f"damaged: {item.problem}" if item.problem else "verified",
    ]
    return ", ".join(word for word in words if word)


def tensorboard(
    job_ids: Annotated[
        list[str], typer.Argument(metavar="JOB_ID...", help="One job, or several to compare.")
    ],
    url: Url = None,
) -> None:
    """Print the address of a TensorBoard of these jobs alone."""
    with connect(url) as client:
        ids = []
        for job_id in job_ids:
            view = client.jobs.get(job_id).view
            if "tensorboard" not in view.links:
                note(f"{view.id} has not begun yet")
            ids.append(view.id)
        sys.stdout.write(f"{client.url}/tensorboard/jobs/{','.join(ids)}/\n")
