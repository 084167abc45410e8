"""``modelyard datasets``, ``upload``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from modelyard.cli.options import After, AsJson, Limit, Url, connect
from modelyard.cli.output import ago, more, note, print_json, print_table, size
from shared.errors import InvalidInput
from shared.views import DatasetView


def register(app: typer.Typer) -> None:
    for command in (datasets, upload):
        app.command()(command)


def datasets(limit: Limit = 50, after: After = None, as_json: AsJson = False, url: Url = None) -> None:
    """List uploaded datasets."""
    with connect(url) as client:
        page = client.datasets.list(limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    print_table(
        ("ID", "NAME", "KIND", "SIZE", "HOLDS", "CREATED"),
        (
            (item.id, item.name, item.kind, size(item.size_bytes), _holds(item), ago(item.created_at))
            for item in page.items
        ),
    )
    more(page.has_more, page.items[-1].id if page.items else None)


def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A csv or npz file.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's own.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Upload a dataset and print its id, which jobs name it by."""
    if not file.is_file():
        raise InvalidInput(f"{file} is not a file.")
    with connect(url) as client:
        view = client.datasets.upload(file, name=name)
    if as_json:
        print_json(view)
    else:
        sys.stdout.write(f"{view.id}\n")
        note(f"{view.name}: {size(view.size_bytes)}, {_holds(view)}")


def _holds(dataset: DatasetView) -> str:
    info = dataset.info
    if dataset.kind == "csv":
        columns = info.get("columns") or []
        return f"{info.get('rows', '?')} rows, {len(columns)} columns"
    arrays = info.get("arrays") or {}
    if isinstance(arrays, dict):
        return ", ".join(f"{key} {value.get('shape')}" for key, value in arrays.items())
    return ""
