"""``python -m services.api.access``: keys made against the database itself, for ``modelyard keys ... --local``.

One JSON object goes to stdout. Whoever can write the database needs no key to make one.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pydantic import ValidationError

from services.api.access.opening import check_address
from services.api.fields import BodyInvalid, offending_fields
from services.api.render import dumps
from services.api.render import key as rendered
from services.api.requests import KeyRequest
from shared.errors import InvalidInput, ModelyardError
from shared.keys import new_key
from shared.settings import Settings
from shared.store import Store, migrate


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done, 1 refused, 2 wrong usage. The reason is a JSON object too."""
    parser = argparse.ArgumentParser(prog="python -m services.api.access")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create", help="make a key from the JSON on stdin, as POST /keys takes it")
    commands.add_parser("list")
    commands.add_parser("revoke").add_argument("key")
    commands.add_parser("check", help="may the API listen where the settings say?")
    options = parser.parse_args(arguments)
    try:
        body = _run(options, Settings())
    except ModelyardError as error:
        sys.stdout.write(json.dumps({"error": error.as_dict()}) + "\n")
        return 1
    sys.stdout.buffer.write(dumps(body) + b"\n")
    return 0


def _run(options: argparse.Namespace, settings: Settings) -> Any:
    settings.paths.create()
    migrate(settings.store_url)
    store = Store(settings.store_url)
    try:
        if options.command == "create":
            wanted = _wanted(json.loads(sys.stdin.read()))
            new = new_key()
            made = store.keys.add(
                new,
                name=wanted.name,
                role=wanted.role,
                created_by="local",
                project=wanted.project,
                limits=wanted.limits.model_dump(exclude_none=True),
                expires_in=wanted.expires_in_seconds,
            )
            return {**rendered(made), "key": new.text}
        if options.command == "revoke":
            return rendered(store.keys.revoke(options.key))
        if options.command == "check":
            check_address(settings)
            return {}
        page = store.keys.find(limit=200)
        return {"items": [rendered(item) for item in page.items], "has_more": page.has_more}
    finally:
        store.close()


def _wanted(data: Any) -> KeyRequest:
    try:
        return KeyRequest.model_validate(data)
    except ValidationError as error:
        first = offending_fields(BodyInvalid(error, data))[0]
        raise InvalidInput(f"{first['field']}: {first['message']}", field=first["field"]) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
