"""``modelyard models``, ``label``, ``rollback``, ``predict``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelyard.cli.options import AsJson, Limit, Url, connect
from modelyard.cli.output import ago, more, note, numbers, print_json, print_table, size
from modelyard.client import Client
from modelyard.predictions import top
from shared.errors import InvalidInput
from shared.views import PredictResponse


def register(app: typer.Typer) -> None:
    for command in (models, label, rollback, predict):
        app.command()(command)


def models(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Show this model's versions.")] = None,
    limit: Limit = 50,
    after: Annotated[str | None, typer.Option(help="Show what follows this name or version.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List models, or the versions of one."""
    with connect(url) as client:
        if name is not None:
            _versions(client, name, limit, after, as_json)
            return
        page = client.models.list(limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    print_table(
        ("MODEL", "LATEST", "SERVING", "LABELS", "CREATED"),
        (
            (
                item.name,
                item.latest_version or "",
                ", ".join(map(str, item.serving_versions)),
                "  ".join(f"{key}={value}" for key, value in item.labels.items()),
                ago(item.created_at),
            )
            for item in page.items
        ),
    )
    more(page.has_more, page.items[-1].name if page.items else None)


def _versions(client: Client, name: str, limit: int, after: str | None, as_json: bool) -> None:
    if after is not None and not after.isdigit():
        raise InvalidInput(f"--after {after}: with a model, expected a version number.")
    page = client.models.versions(name, limit=limit, after=None if after is None else int(after))
    if as_json:
        print_json(page)
        return
    print_table(
        ("VERSION", "SERVING", "LABELS", "METRICS", "SIZE", "JOB", "CREATED"),
        (
            (
                item.version,
                item.serving_state or "",
                " ".join(item.labels),
                numbers(dict(item.metrics)),
                size(item.size_bytes),
                item.job_id or "",
                ago(item.created_at),
            )
            for item in page.items
        ),
    )
    more(page.has_more, page.items[-1].version if page.items else None)


def label(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    name: Annotated[str, typer.Argument(metavar="LABEL", help="Such as stable or canary.")],
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", min=1)] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="TARGET=WEIGHT, repeatable: versions or labels, such as stable=90 and canary=10."),
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(help="Version or label that gets copies of the requests.")
    ] = None,
    max_error_rate: Annotated[
        float | None, typer.Option(help="Withdraw a newcomer that fails more often, such as 0.02.")
    ] = None,
    max_p95_ms: Annotated[float | None, typer.Option(help="Withdraw a newcomer that is slower.")] = None,
    url: Url = None,
) -> None:
    """Send a label's requests to a version, or split them by weight."""
    if (version is None) == (not split):
        raise InvalidInput("Give either a version or --split TARGET=WEIGHT, twice or more.")
    bounds = {"max_error_rate": max_error_rate, "max_p95_ms": max_p95_ms}
    guard = {key: value for key, value in bounds.items() if value is not None}
    with connect(url) as client:
        client.models.set_label(
            model,
            name,
            version,
            split=_weights(split) if split else None,
            shadow={"to": shadow} if shadow else None,
            guard=guard or None,
        )
    note(f"{model}: {name} is " + (f"version {version}" if version is not None else ", ".join(split or ())))


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    label: Annotated[str | None, typer.Option(help="Default: 'stable', or the only label.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Default: what was there before.")] = None,
    url: Url = None,
) -> None:
    """Go back to what was served before."""
    with connect(url) as client:
        view = client.models.rollback(model, label, version)
    found = ", ".join(f"{key} is version {value}" for key, value in view.labels.items())
    note(f"{model}: {found or f'version {view.default_version or view.latest_version} answers'}")


def _weights(split: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in split:
        target, _, weight = item.partition("=")
        try:
            found[target] = float(weight)
        except ValueError:
            raise InvalidInput(f"--split {item}: expected TARGET=WEIGHT, such as canary=10.") from None
    return found


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A served model's name.")],
    image: Annotated[list[Path] | None, typer.Option(help="An image file; repeatable.")] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="JSON: a list of instances, or {'instances': ...} or {'inputs': ...}; '-': stdin."
        ),
    ] = None,
    version: Annotated[int | None, typer.Option(min=0, help="Default: the highest that is served.")] = None,
    label: Annotated[str | None, typer.Option(help="Instead of a version.")] = None,
    signature: Annotated[str | None, typer.Option(help="Default: the one that fits the input.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Images too: print the answer as JSON.")] = False,
    url: Url = None,
) -> None:
    """Ask a model: a table for images, the answer's JSON otherwise."""
    if (image is None) == (json_file is None):
        raise InvalidInput("Give either --image FILE, once or more, or --json FILE.")
    with connect(url) as client:
        if image:
            for path in image:
                if not path.is_file():
                    raise InvalidInput(f"{path} is not a file.")
            answer = client.predict(model, images=image, version=version, label=label)
            if not raw:
                _print_predictions(client, image, answer)
                return
        else:
            body = _body(json_file or Path("-"))
            answer = client.predict(model, version=version, label=label, signature_name=signature, **body)
    print_json(answer.model_dump(exclude_none=True))


def _body(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text())
    except OSError as error:
        raise InvalidInput(f"{path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}.") from None
    if isinstance(found, list):
        return {"instances": found}
    if isinstance(found, dict) and len(found.keys() & {"instances", "inputs"}) == 1:
        return {key: found[key] for key in ("instances", "inputs", "signature_name") if key in found}
    raise InvalidInput(f"{path}: expected a list of instances, or an object with 'instances' or 'inputs'.")


def _print_predictions(client: Client, images: list[Path], answer: PredictResponse) -> None:
    classes = (
        client.models.version(answer.model, answer.version).classes if answer.version is not None else None
    )
    best = [top(prediction, classes) for prediction in answer.predictions or ()]
    print_table(
        ("IMAGE", "PREDICTION", "PROBABILITY"),
        (
            (path, found.name, "" if found.probability is None else f"{found.probability:.3f}")
            for path, found in zip(images, best, strict=True)
        ),
    )
    note(f"{answer.model} version {answer.version}")
