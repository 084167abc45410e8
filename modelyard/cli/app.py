"""Gathers the commands and turns what they raise into one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import modelyard.errors as client_errors
from modelyard.cli import (
    backup,
    builders,
    clean_up,
    data,
    demo,
    doctor,
    export,
    jobs,
    keys,
    models,
    queues,
    reproduce,
    runs,
    train,
    tune,
    up,
)
from modelyard.cli.options import key_file
from modelyard.cli.output import errors
from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from shared.errors import InvalidInput, ModelyardError

app = typer.Typer(
    name="modelyard",
    help="Train, tune, export and serve Keras models behind one REST API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_EXITS: tuple[tuple[type[ModelyardError], Exit], ...] = (
    (client_errors.JobFailed, Exit.JOB_FAILED),
    (client_errors.JobCancelled, Exit.JOB_CANCELLED),
    (client_errors.Unreachable, Exit.UNREACHABLE),
    (client_errors.InvalidRequest, Exit.INVALID),
    (client_errors.NotFound, Exit.NOT_FOUND),
    (client_errors.Denied, Exit.DENIED),
    (client_errors.Conflict, Exit.CONFLICT),
    (client_errors.Unavailable, Exit.UNAVAILABLE),
    (InvalidInput, Exit.USAGE),
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"modelyard {version('modelyard')}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file that holds the API key. Default: MODELYARD_API_KEY, else MODELYARD_API_KEY_FILE."
        ),
    ] = None,
) -> None:
    key_file.set(api_key_file)


for module in (
    up,
    train,
    tune,
    export,
    jobs,
    runs,
    reproduce,
    builders,
    models,
    queues,
    data,
    keys,
    doctor,
    backup,
    clean_up,
    demo,
):
    module.register(app)


def exit_code(error: ModelyardError) -> Exit:
    """The exit code that stands for an error."""
    if isinstance(error, LaunchError):
        return error.exit_code
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.INTERNAL)


def report(error: ModelyardError) -> None:
    """One line, then what to do about it."""
    where = f" [{error.field}]" if error.field else ""
    errors.print(f"error{where}: {error.message}", style="red", markup=False)
    problem = getattr(error, "problem", None)
    for other in (problem.errors if problem else None) or ():
        errors.print(f"  {other.get('field') or ''}: {other.get('message') or other}", markup=False)
    if error.hint:
        errors.print(f"  {error.hint}", markup=False)


def main() -> None:
    """Run the command line; never returns."""
    try:
        app()
    except ModelyardError as error:
        report(error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # the reader (head, less) has seen enough; keep the interpreter from complaining as it flushes
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
