"""``modelyard backup`` and ``restore``: the operator's commands, for a platform on this machine or its database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelyard.cli.options import AsJson, HomeFolder
from modelyard.cli.output import note, print_json, size
from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.guard import lock_home
from modelyard.launcher.options import environment, load_settings


def register(app: typer.Typer) -> None:
    for command in (backup, restore):
        app.command()(command)


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of backups; made if missing.")],
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take a backup of jobs, models, runs and datasets, while the platform runs or not, and print its path.

    Each backup is complete; files that have not changed since the last one in DIR are hard links to it. The database
    may be SQLite or PostgreSQL (MODELYARD_DATABASE_URL). Downloaded data sets and caches are left out.
    """
    said = _run("create", folder, home)
    _tell(said, as_json, f"{said['linked']} of them as in the backup before")


def restore(
    backup: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="A backup, or a folder of them: its newest.")
    ],
    home: HomeFolder = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only compare all checksums; restore nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into an empty home folder and an empty database; `modelyard up` then goes on from there.

    Jobs that were running go on from their checkpoints. A backup made with SQLite can be restored into PostgreSQL, and
    the other way round.
    """
    if check:
        _tell(_run("check", backup, home), as_json, "all as they were written")
        return
    settings = load_settings(home=home)
    settings.paths.root.mkdir(parents=True, exist_ok=True)
    lock = lock_home(settings.paths)
    try:
        said = _run("restore", backup, home)
    finally:
        lock.release()
    _tell(said, as_json, "each compared with its checksum")


def _tell(said: dict[str, Any], as_json: bool, how: str) -> None:
    if as_json:
        print_json(said)
        return
    sys.stdout.write(f"{said['path']}\n")
    note(f"{said['rows'].get('jobs', 0)} jobs; {said['files']} files, {size(said['size_bytes'])}, {how}")
    for skipped in said["skipped"]:
        note(f"left out: {skipped}")


def _run(command: str, path: Path, home: Path | None) -> dict[str, Any]:
    """The work is done by a process of its own: the command line loads no database."""
    argv = [sys.executable, "-m", "shared.backup", command, str(path.expanduser().resolve())]
    done = subprocess.run(
        argv, env=environment(dict(os.environ), load_settings(home=home)), stdout=subprocess.PIPE, check=False
    )
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = {"message": f"`{' '.join(argv)}` ended with {done.returncode}; what it said is above."}
    if done.returncode:
        raise LaunchError(said["message"], exit_code=Exit.BACKUP_FAILED, hint=said.get("hint"))
    return said
