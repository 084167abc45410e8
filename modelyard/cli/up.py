"""``modelyard up``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelyard.cli.options import HomeFolder


def register(app: typer.Typer) -> None:
    app.command()(up)


def up(
    home: HomeFolder = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one. Default: 8000.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, max=64, help="Jobs that run at once. Default: 1.")
    ] = None,
    api_processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="API processes that share the port. Default: 1.")
    ] = None,
    allow_path: Annotated[
        list[Path] | None, typer.Option(help="Folder whose files jobs may name by path; repeatable.")
    ] = None,
    code: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with builders of your own, which jobs may name; repeatable."),
    ] = None,
) -> None:
    """Run the whole platform on this machine, in the foreground, until Ctrl-C.

    Starts a broker, a worker, a model server, TensorBoard and the API, starts again what dies, and stops all of them
    together. Their logs lie in HOME/logs. Every MODELYARD_* setting applies; set MODELYARD_BROKER_URL,
    MODELYARD_SERVING_URL or MODELYARD_TENSORBOARD_URL to use a server of your own.
    """
    from modelyard.launcher.up import up as launch

    launch(
        home=home,
        host=host,
        port=port,
        slots=slots,
        api_processes=api_processes,
        allow_paths=allow_path,
        code=code,
    )
