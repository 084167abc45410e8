"""Take a backup of a platform, running or not."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from shared.backup import rows
from shared.backup.snapshot import (
    FILES,
    FORMAT,
    MANIFEST,
    PARTIAL,
    ROWS,
    TREES,
    Entry,
    Manifest,
    copy,
    digest,
    newest,
    read_entries,
)
from shared.errors import InvalidInput, Misconfigured
from shared.settings import Settings
from shared.store import Database, current_revision

GENERATED = "models/models.config"  # written anew from the store at each start
_MANY_SKIPPED = 100


def create(settings: Settings, into: Path) -> tuple[Path, Manifest]:
    """Make the next snapshot in the folder ``into``; returns its path and manifest.

    The rows are taken first, in one transaction, then the files. A row is written after the files it speaks of, so
    all that the rows need is there; a file that is newer than the rows does no harm. Files that are as they were in the
    snapshot before, by size and time, become hard links to it and take no room.

    Raises:
        InvalidInput: ``into`` lies within the home folder, or can't be written.
        Misconfigured: there is no store to back up.
        Unavailable: the database does not answer.
    """
    home = settings.paths
    into = into.expanduser().resolve()
    if into == home.root or any(into.is_relative_to(home.root / tree) for tree in TREES):
        raise InvalidInput(f"{into} is part of what is backed up.", hint="Choose a folder outside of it.")
    revision = _revision(settings)
    before = newest(into)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    partial = into / f"{PARTIAL}{stamp}-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        db = Database(settings.store_url, patient=True)
        try:
            counts = rows.dump(db, partial / ROWS)
        finally:
            db.dispose()
        manifest = _with_files(settings, partial, before, revision, counts)
        target = _free(into, stamp)
        partial.rename(target)
    except OSError as error:
        raise InvalidInput(f"The backup could not be written: {error}.", code="backup_failed") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target, manifest


def _revision(settings: Settings) -> str:
    revision = None
    if settings.database_url or settings.paths.database.exists():
        revision = current_revision(settings.store_url)
    if revision is None:
        raise Misconfigured(
            f"There is no store at {settings.paths.root} to back up.",
            hint="Name the platform's folder with --home, or its database with MODELYARD_DATABASE_URL.",
        )
    return revision


def _with_files(
    settings: Settings, partial: Path, before: Path | None, revision: str, counts: dict[str, int]
) -> Manifest:
    known = {entry.path: entry for entry in read_entries(before)} if before else {}
    files = size = linked = 0
    skipped: list[str] = []
    with gzip.open(partial / FILES, "wt", compresslevel=3) as lines:
        for path in _walk(settings.paths.root, skipped):
            entry, is_link = _take(settings.paths.root, partial, path, before, known.get(path))
            if entry is None:
                skipped.append(f"{path}: removed meanwhile")
                continue
            files, size, linked = files + 1, size + entry.size, linked + is_link
            lines.write(json.dumps(asdict(entry)) + "\n")
    names = [FILES, *sorted(f"{ROWS}/{path.name}" for path in (partial / ROWS).iterdir())]
    manifest = Manifest(
        format=FORMAT,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        version=metadata.version("modelyard"),
        database="postgresql" if settings.database_url and "postgres" in settings.database_url else "sqlite",
        revision=revision,
        rows=counts,
        files=files,
        size_bytes=size,
        linked=linked,
        skipped=skipped[:_MANY_SKIPPED],
        sums={name: digest(partial / name) or "" for name in names},
    )
    _flush(partial)
    (partial / MANIFEST).write_text(manifest.as_json())
    _flush(partial)
    return manifest


def _walk(root: Path, skipped: list[str]) -> Iterator[str]:
    """Files of the three trees, relative to ``root``; what is half-made or half-removed stays out."""
    for tree in TREES:
        for base, folders, names in os.walk(root / tree):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(base, name)
                relative = str(path.relative_to(root))
                if path.is_symlink() or not path.is_file():
                    skipped.append(f"{relative}: not a plain file")
                elif not name.startswith(".") and relative != GENERATED:
                    yield relative


def _take(
    root: Path, partial: Path, path: str, before: Path | None, known: Entry | None
) -> tuple[Entry | None, bool]:
    target = partial / path
    if before is not None and known is not None:
        try:
            now = (root / path).stat()
            if (now.st_size, now.st_mtime_ns) == (known.size, known.mtime_ns):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(before / path, target)
                return known, True
        except OSError:
            pass  # gone, or the filesystem has no links: the copy below finds out
    entry = copy(root / path, target)
    return (None if entry is None else Entry(path, entry.size, entry.mtime_ns, entry.sha256)), False


def _free(into: Path, stamp: str) -> Path:
    target, number = into / stamp, 1
    while target.exists():
        number += 1
        target = into / f"{stamp}-{number}"
    return target


def _flush(folder: Path) -> None:
    os.sync()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
