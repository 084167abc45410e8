"""``modelyard demo``: what ``make demo`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    home: Annotated[Path | None, typer.Option(help="Default: MODELYARD_HOME, else .modelyard.")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; another when it is taken.")
    ] = 8000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running until Ctrl-C.")] = False,
    since: Annotated[
        float | None, typer.Option(hidden=True, help="When make began, for the timings.")
    ] = None,
) -> None:
    """Train LeNet on Fashion-MNIST, publish it, and ask it about 12 test images."""
    from modelyard.demo.run import run

    raise typer.Exit(run(home=home, port=port, keep=keep, since=since))
