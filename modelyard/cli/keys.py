"""``modelyard keys`` and ``modelyard audit``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelyard.cli.options import AsJson, Limit, Url, connect
from modelyard.cli.output import ago, more, note, print_json, print_table
from shared.errors import InvalidInput
from shared.keys import Role, new_key, seconds_of
from shared.views import KeyList, KeyView, NewKeyView

keys = typer.Typer(help="API keys: make, list, revoke.", no_args_is_help=True)

Local = Annotated[
    bool,
    typer.Option(
        "--local", help="Straight into the database, without a key or a running API: for the first one."
    ),
]
HomeFolder = Annotated[Path | None, typer.Option("--home", help="With --local: the home folder.")]


def register(app: typer.Typer) -> None:
    app.add_typer(keys, name="keys")
    app.command()(audit)


@keys.command()
def create(
    role: Annotated[Role, typer.Option(help="What it may do: docs/security.md.")],
    name: Annotated[str, typer.Option(help="Whose it is, or what for.")] = "unnamed",
    project: Annotated[
        str | None, typer.Option(help="The only project whose jobs it may submit and change.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="30d, 12h, 90m, 4w. Default: never.")] = None,
    rate: Annotated[str | None, typer.Option(help="Its own limit of requests, e.g. 600/minute.")] = None,
    predict_rate: Annotated[str | None, typer.Option(help="Its own limit of predictions.")] = None,
    max_body_mb: Annotated[int | None, typer.Option(min=1, help="Its own limit of a body, in MiB.")] = None,
    max_upload_mb: Annotated[
        int | None, typer.Option(min=1, help="Its own limit of an upload, in MiB.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the key to this new file, for its owner only.")
    ] = None,
    local: Local = False,
    home: HomeFolder = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a key and print it, this once. The very first must be an admin's; from then on the API asks for keys."""
    limits = {
        "requests": rate,
        "predictions": predict_rate,
        "max_body_mb": max_body_mb,
        "max_upload_mb": max_upload_mb,
    }
    wanted: dict[str, Any] = {
        "name": name,
        "project": project,
        "expires_in_seconds": seconds_of(expires, field="expires") if expires else None,
        "limits": {key: value for key, value in limits.items() if value is not None} or None,
    }
    if out is not None and out.exists():
        raise InvalidInput(
            f"{out} is there already.", field="out", hint="Name a new file: a key replaces nothing."
        )
    made: NewKeyView
    if local:
        body = {"role": role.value, **{key: value for key, value in wanted.items() if value is not None}}
        made = NewKeyView.model_validate(_local(home, "create", body=body))
    else:
        with connect(url) as client:
            made = client.keys.create(role, **wanted)
    if out is not None:
        _write(out, made.key)
    if as_json:
        print_json(made)
    elif out is None:
        sys.stdout.write(made.key + "\n")
    until = f", until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else ""
    note(f"{made.id}: {made.role}{until}. The key is shown this once; stored is a hash.")


@keys.command("list")
def list_keys(
    limit: Limit = 50,
    after: Annotated[str | None, typer.Option(help="Show what follows this id: the next page.")] = None,
    local: Local = False,
    home: HomeFolder = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List keys, newest first."""
    if local:
        page = KeyList.model_validate(_local(home, "list"))
    else:
        with connect(url) as client:
            page = client.keys.list(limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    print_table(
        ("ID", "PREFIX", "NAME", "ROLE", "PROJECT", "STATE", "CREATED", "LAST USED"),
        (
            (
                item.id,
                item.prefix,
                item.name,
                item.role,
                item.project or "",
                _state(item),
                ago(item.created_at),
                ago(item.last_used_at),
            )
            for item in page.items
        ),
    )
    more(page.has_more, page.items[-1].id if page.items else None)


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key's id, or its prefix.")],
    local: Local = False,
    home: HomeFolder = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a key worthless, and end its sessions; within 5 seconds in all API processes."""
    if local:
        view = KeyView.model_validate(_local(home, "revoke", key))
    else:
        with connect(url) as client:
            view = client.keys.revoke(key)
    if as_json:
        print_json(view)
    else:
        note(f"{view.id} ({view.name}) is revoked")


@keys.command()
def generate() -> None:
    """Print a key that is stored nowhere, for MODELYARD_ADMIN_KEY or MODELYARD_ADMIN_KEY_FILE."""
    sys.stdout.write(new_key().text + "\n")


def audit(
    limit: Limit = 50,
    after: Annotated[
        int | None, typer.Option(min=0, help="Show what follows this number: the next page.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only of the key with this id.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show who changed what, newest first."""
    with connect(url) as client:
        page = client.audit(limit=limit, after=after, key=key)
    if as_json:
        print_json(page)
        return
    print_table(
        ("NUMBER", "WHEN", "WHO", "ROLE", "DID", "TO", "STATUS", "FROM"),
        (
            (
                item.seq,
                f"{item.at:%Y-%m-%d %H:%M:%S}",
                item.who,
                item.role or "",
                f"{item.method} {item.route}",
                item.target,
                item.status,
                item.address or "",
            )
            for item in page.items
        ),
    )
    more(page.has_more, page.items[-1].seq if page.items else None)


def _local(home: Path | None, *arguments: str, body: dict[str, Any] | None = None) -> Any:
    from modelyard.launcher.keys import local_keys
    from modelyard.launcher.options import load_settings

    return local_keys(load_settings(home=home), dict(os.environ), *arguments, body=body)


def _state(key: KeyView) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "live" if key.live else "expired"


def _write(file: Path, key: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as sink:
        sink.write(key + "\n")
