"""``python -m shared.backup create DIR | restore SNAPSHOT | check SNAPSHOT``: of the settings' store and home."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from shared.backup import check, create, newest, restore
from shared.errors import ModelyardError
from shared.settings import Settings

_USAGE = "usage: python -m shared.backup create DIR | restore SNAPSHOT | check SNAPSHOT\n"


def main(arguments: list[str]) -> int:
    """Run one command; prints one line of JSON. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    if len(arguments) != 2 or arguments[0] not in ("create", "restore", "check"):
        sys.stderr.write(_USAGE)
        return 2
    command, path = arguments[0], Path(arguments[1])
    try:
        if command == "create":
            path, manifest = create(Settings(), path)
        else:
            path = _snapshot(path)
            manifest = restore(path, Settings()) if command == "restore" else check(path)
    except ModelyardError as error:
        sys.stdout.write(json.dumps(error.as_dict()) + "\n")
        return 1
    said = asdict(manifest)
    del said["sums"]
    sys.stdout.write(json.dumps({"path": str(path), **said}) + "\n")
    return 0


def _snapshot(path: Path) -> Path:
    """A folder of snapshots stands for its newest one."""
    return newest(path) or path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
