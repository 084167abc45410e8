"""``modelyard clean-up``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelyard.cli.options import AsJson, Url, connect
from modelyard.cli.output import note, print_json, print_table, size
from shared.errors import InvalidInput


def register(app: typer.Typer) -> None:
    app.command("clean-up")(clean_up)


def clean_up(
    checkpoints: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Checkpoints of jobs that ended so long ago.")
    ] = None,
    keep_checkpoints: Annotated[
        int, typer.Option(min=0, help="The newest so many of each job stay, and its best one.")
    ] = 1,
    event_files: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="TensorBoard's files of jobs that ended so long ago."),
    ] = None,
    keep_versions: Annotated[
        int | None, typer.Option(min=1, help="Versions of each model beyond the newest so many.")
    ] = None,
    versions: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Of those, only versions that are so old.")
    ] = 0,
    jobs: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="Jobs that ended so long ago, with all they have."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it; without this, only say what would go.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Remove old checkpoints, event files, versions and jobs: what the options name, and nothing else.

    Without --yes nothing is removed. Versions with a label, the default and the newest of a model, and whatever a
    queued or running job needs stay in any case.
    """
    policy: dict[str, Any] = {}
    if checkpoints is not None:
        policy["checkpoints"] = {"older_than_days": checkpoints, "keep": keep_checkpoints}
    if event_files is not None:
        policy["event_files"] = {"older_than_days": event_files}
    if keep_versions is not None:
        policy["versions"] = {"keep": keep_versions, "older_than_days": versions}
    if jobs is not None:
        policy["jobs"] = {"older_than_days": jobs}
    if not policy:
        raise InvalidInput(
            "Nothing was named to clean up.",
            hint="Give at least one of --checkpoints, --event-files, --keep-versions, --jobs.",
        )
    with connect(url) as client:
        view = client.clean_up(policy, dry_run=not yes)
    if as_json:
        print_json(view)
        return
    print_table(("KIND", "NAME", "SIZE"), ((one.kind, one.name, size(one.size_bytes)) for one in view.things))
    counted = ", ".join(f"{count} {kind.replace('_', ' ')}s" for kind, count in sorted(view.counts.items()))
    what = "would go" if view.dry_run else "removed"
    note(f"{counted or 'nothing'} {what}, {size(view.size_bytes)}" + ("" if yes else "; --yes removes"))
