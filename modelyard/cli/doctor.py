"""``modelyard doctor``: what is there, what is missing, and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from modelyard.cli.options import AsJson, Url
from modelyard.cli.output import print_json, print_table
from modelyard.exits import Exit

_STYLE = {"ok": "green", "warn": "yellow", "bad": "red", "info": "dim"}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    home: Annotated[Path | None, typer.Option(help="Default: MODELYARD_HOME, else .modelyard.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Check versions, devices, disk, ports, and the running platform if there is one."""
    from modelyard.doctor import examine

    findings = examine(home=home, url=url)
    if as_json:
        print_json([finding.model_dump() for finding in findings])
    else:
        print_table(
            ("", "CHECK", "FOUND"),
            (
                (Text(item.status, style=_STYLE[item.status]), item.check, _found(item.found, item.hint))
                for item in findings
            ),
        )
    if any(finding.status == "bad" for finding in findings):
        raise typer.Exit(Exit.UNHEALTHY)


def _found(found: str, hint: str | None) -> str:
    return f"{found}\n{hint}" if hint else found
