"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from modelyard.client import Client
from modelyard.client.settings import DEFAULT_URL

Url = Annotated[
    str | None,
    typer.Option("--url", help=f"The server's address. Default: MODELYARD_URL, else {DEFAULT_URL}."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API sends it.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="Items to show.")]
After = Annotated[str | None, typer.Option(help="Show what follows this id: the next page.")]


def connect(url: str | None) -> Client:
    """The client that a command uses."""
    return Client(url)
