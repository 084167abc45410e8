"""Files that grow with training (event files, CSV logs), taken back to what they were at a checkpoint.

A checkpoint notes how many bytes of each belong to its past. An attempt that goes on from it cuts off what a lost
attempt had written since, so that nothing appears twice or contradicts itself.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

WHOLE = -1  # in place of a size: the file is replaced as a whole, never appended to


def sizes(root: Path, files: Iterable[Path]) -> dict[str, int]:
    """Bytes of each of ``files`` that is there, by path relative to ``root``."""
    return {str(path.relative_to(root)): path.stat().st_size for path in files if path.is_file()}


def take_back(
    root: Path,
    noted: dict[str, int],
    present: Iterable[Path],
    warn: Callable[[str, str], None],
    source: Path | None = None,
) -> None:
    """Make the files below ``root`` those that were noted.

    Args:
        root: this run's folder.
        noted: by relative path, bytes or ``WHOLE``.
        present: files that training has written there; those that were not noted are deleted.
        warn: told about one that is shorter than noted.
        source: the run's folder that they are in, if not ``root``; they are copied.
    """
    for path in present:
        if path.is_file() and str(path.relative_to(root)) not in noted:
            path.unlink()
            _remove_empty(path.parent, root)
    for name, size in noted.items():
        path = root / name
        if source is not None and source != root and (source / name).is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, path)
        there = path.stat().st_size if path.is_file() else None
        if there is None or (size != WHOLE and there < size):
            warn("file_lost", f"{name} has lost what was written to it before the checkpoint")
        elif size not in (WHOLE, there):
            with path.open("r+b") as file:
                file.truncate(size)


def _remove_empty(folder: Path, root: Path) -> None:
    with contextlib.suppress(OSError):  # not empty
        while folder != root:
            folder.rmdir()
            folder = folder.parent
