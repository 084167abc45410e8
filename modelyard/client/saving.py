"""An answer that becomes a file: under another name until it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from modelyard.client.routes import Archive
from shared.errors import InvalidInput


def archive_kind(path: str | os.PathLike[str]) -> Archive:
    """Which archive a file name stands for.

    Raises:
        InvalidInput: neither.
    """
    name = os.fspath(path)
    if name.endswith(".zip"):
        return "zip"
    if name.endswith((".tar.gz", ".tgz")):
        return "tar.gz"
    raise InvalidInput(f"{name!r}: an archive's name ends in .zip or .tar.gz.")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into that gets its name when all is written, and is gone if that fails.

    Raises:
        InvalidInput: it can't be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("wb")
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror}.") from None
    try:
        with file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
