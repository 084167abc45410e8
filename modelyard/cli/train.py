"""``modelyard train``: a spec file, flags, or a file with flags on top."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelyard.cli.options import AsJson, DryRun, Follow, JobName, Url, connect
from modelyard.cli.show import finish, print_plan
from shared.errors import InvalidInput


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC.json]", help="A job as JSON; '-' reads standard input.")
    ] = None,
    builder: Annotated[str | None, typer.Option(help="Built-in architecture: lenet5 or mlp.")] = None,
    param: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the builder; repeatable.")] = None,
    tfds: Annotated[str | None, typer.Option(help="A tensorflow_datasets name, e.g. fashion_mnist.")] = None,
    csv: Annotated[str | None, typer.Option(help="A csv dataset's id, or a path the server allows.")] = None,
    npz: Annotated[str | None, typer.Option(help="An npz dataset's id, or a path the server allows.")] = None,
    label: Annotated[str | None, typer.Option(help="The csv file's target column.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    optimizer: Annotated[str | None, typer.Option(help="A Keras optimizer, e.g. adam.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    publish: Annotated[str | None, typer.Option(help="Serve the result under this name.")] = None,
    name: JobName = None,
    follow: Follow = False,
    dry_run: DryRun = False,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Sent again with the same key: the same job.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit a training job. Prints the job's id; with --follow, shows it until it ends."""
    flags = {
        "model": {"builder": builder, "params": _params(param) if param else None},
        "dataset": {"tfds": tfds, "csv": csv, "npz": npz, "label": label},
        "fit": {
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
        },
        "publish": {"model": publish},
        "name": name,
    }
    body = overlay(read_spec(spec) if spec else {"kind": "train"}, flags)
    if "model" not in body or "dataset" not in body:
        raise InvalidInput(
            "Say what to train and on what.",
            hint="modelyard train --builder lenet5 --tfds fashion_mnist, or a spec file; see --help.",
        )
    with connect(url) as client:
        if dry_run:
            print_plan(client.jobs.plan(body), as_json=as_json)
            return
        job = client.jobs.submit(body, idempotency_key=key)
        finish(job, follow=follow, as_json=as_json)


def read_spec(path: Path) -> dict[str, Any]:
    """A JSON object from a file or standard input.

    Raises:
        InvalidInput: it is not there, or not that.
    """
    try:
        found = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text())
    except OSError as error:
        raise InvalidInput(f"{path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} holds no JSON object.")
    return found


def overlay(spec: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """``spec`` with the flags that were given on top. The kind of model or data follows the flag."""
    result = dict(spec)
    for key, value in flags.items():
        if not isinstance(value, dict):
            if value is not None:
                result[key] = value
            continue
        given = {name: item for name, item in value.items() if item is not None}
        if given:
            kept = dict(result.get(key) or {})
            if given.keys() & {"tfds", "csv", "npz"}:
                kept = {name: item for name, item in kept.items() if name not in ("tfds", "csv", "npz")}
            result[key] = {**kept, **given}
    return result


def _params(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE; the value is JSON where it can be read as such, else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--param {pair!r}: expected KEY=VALUE, such as units=128,64.")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found
