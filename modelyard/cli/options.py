"""Options that several commands have."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

from modelyard.client import Client
from modelyard.client.settings import DEFAULT_URL, key_in

Url = Annotated[
    str | None,
    typer.Option("--url", help=f"The server's address. Default: MODELYARD_URL, else {DEFAULT_URL}."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API sends it.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="Items to show.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show it until it ends.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check it and show the plan; store nothing.")]
JobName = Annotated[str | None, typer.Option("--name", help="A name for people.")]
HomeFolder = Annotated[
    Path | None,
    typer.Option("--home", help="Folder that holds everything. Default: MODELYARD_HOME, else .modelyard."),
]
After = Annotated[str | None, typer.Option(help="Show what follows this id: the next page.")]

# --api-key-file, which stands before the command
key_file: ContextVar[Path | None] = ContextVar("key_file", default=None)


def connect(url: str | None) -> Client:
    """The client that a command uses."""
    file = key_file.get()
    return Client(url, api_key=key_in(file) if file is not None else None)
