"""``modelyard builders``."""

from __future__ import annotations

import json

import typer
from rich.text import Text

from modelyard.cli.options import AsJson, Url, connect
from modelyard.cli.output import print_json, print_table
from shared.views import BuilderView, FunctionView


def register(app: typer.Typer) -> None:
    app.command()(builders)


def builders(as_json: AsJson = False, url: Url = None) -> None:
    """List the builders that jobs may name: built in, and your own."""
    with connect(url) as client:
        page = client.builders()
    if as_json:
        print_json(page)
        return
    print_table(
        ("NAME", "FROM", "MODEL", "DATASET", "CODE", "ABOUT"),
        (
            (
                item.name,
                item.source,
                _function(item.build_model),
                _function(item.make_dataset),
                (item.sha256 or "")[:12],
                _about(item),
            )
            for item in page.items
        ),
    )


def _function(view: FunctionView | None) -> str:
    if view is None:
        return "-"
    parts = [
        item.name if item.required else f"{item.name}={json.dumps(item.default)}" for item in view.parameters
    ]
    return ", ".join([*parts, *(["..."] if view.open else [])])


def _about(item: BuilderView) -> Text:
    if item.problem:
        return Text(item.problem, style="red")
    return Text((item.doc or "").partition("\n")[0])
