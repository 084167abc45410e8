"""What a snapshot says of itself, and whether it still is that."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.errors import InvalidInput

FORMAT = 1
TREES = ("models", "runs", "datasets")
MANIFEST = "manifest.json"
FILES = "files.jsonl.gz"
ROWS = "rows"
PARTIAL = ".partial-"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first thing to read, and the last to be written: a folder without one is no snapshot.

    Attributes:
        revision: of the store's schema that the rows are of.
        rows: how many, by table.
        files, size_bytes: of the three trees.
        linked: files that are hard links to the snapshot before.
        skipped: what could not be taken, such as symbolic links, and files that were removed meanwhile.
        sums: SHA-256 of each file of the snapshot that is not in one of the trees.
    """

    format: int
    created_at: str
    version: str
    database: str
    revision: str
    rows: dict[str, int]
    files: int
    size_bytes: int
    linked: int
    skipped: list[str]
    sums: dict[str, str]

    def as_json(self) -> str:
        """As it lies on disk."""
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree. ``path`` is relative to the snapshot."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


def read_manifest(snapshot: Path) -> Manifest:
    """The manifest of a snapshot.

    Raises:
        InvalidInput: the folder is no snapshot, or one that this version can't read.
    """
    try:
        data: dict[str, Any] = json.loads((snapshot / MANIFEST).read_text())
        manifest = Manifest(**data)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"{snapshot} is not a whole backup: {MANIFEST} can't be read.",
            hint="Name a folder that `modelyard backup` made and reported.",
        ) from error
    if manifest.format != FORMAT:
        raise InvalidInput(
            f"{snapshot} is a backup of format {manifest.format}; this version reads format {FORMAT}.",
            hint=f"It was made by Modelyard {manifest.version}.",
        )
    return manifest


def read_entries(snapshot: Path) -> Iterator[Entry]:
    """The files that a snapshot holds.

    Raises:
        InvalidInput: a path would lead out of the snapshot.
    """
    with gzip.open(snapshot / FILES, "rt") as lines:
        for line in lines:
            entry = Entry(**json.loads(line))
            parts = Path(entry.path).parts
            if parts[0] not in TREES or ".." in parts:
                raise InvalidInput(
                    f"{snapshot / FILES} names {entry.path!r}, which is outside of the backup."
                )
            yield entry


def newest(folder: Path) -> Path | None:
    """The last whole snapshot in a folder of snapshots."""
    if not folder.is_dir():
        return None
    found = (
        path for path in folder.iterdir() if not path.name.startswith(".") and (path / MANIFEST).is_file()
    )
    return max(found, key=lambda path: path.name, default=None)


def check_sums(snapshot: Path, manifest: Manifest) -> None:
    """Prove all but the trees.

    Raises:
        InvalidInput: something is not as it was written.
    """
    for name, sha256 in manifest.sums.items():
        found = digest(snapshot / name)
        if found != sha256:
            raise damaged(snapshot, name, found)


def check(snapshot: Path, on_file: Callable[[Entry], None] | None = None) -> Manifest:
    """Read all of a snapshot and compare every checksum.

    Raises:
        InvalidInput: it is not a snapshot, or a file is missing or damaged; names the file.
    """
    manifest = read_manifest(snapshot)
    check_sums(snapshot, manifest)
    for entry in read_entries(snapshot):
        found = digest(snapshot / entry.path)
        if found != entry.sha256:
            raise damaged(snapshot, entry.path, found)
        if on_file is not None:
            on_file(entry)
    return manifest


def damaged(snapshot: Path, name: str, found: str | None) -> InvalidInput:
    """The error for a file that is not what was written."""
    what = "is missing from" if found is None else "is not what was written into"
    return InvalidInput(
        f"{name} {what} the backup {snapshot}.",
        code="backup_damaged",
        hint="Take another backup: nothing was restored from this one.",
    )


def digest(path: Path) -> str | None:
    """SHA-256 of a file; None when there is none that can be read."""
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
    except OSError:
        return None
    return sha256.hexdigest()


def copy(source: Path, target: Path) -> Entry | None:
    """Copy one file with its time; None when it is gone. ``path`` of the entry is the target's.

    A file that grows or changes meanwhile is taken as it was read, with the time it had before, so that the next
    backup takes it again.
    """
    sha256 = hashlib.sha256()
    size = 0
    try:
        with source.open("rb") as reading:
            before = os.fstat(reading.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as writing:
                while chunk := reading.read(_CHUNK):
                    sha256.update(chunk)
                    size += len(chunk)
                    writing.write(chunk)
    except FileNotFoundError:
        return None
    os.utime(target, ns=(before.st_mtime_ns, before.st_mtime_ns))
    target.chmod(before.st_mode & 0o777)
    return Entry(str(target), size, before.st_mtime_ns, sha256.hexdigest())
