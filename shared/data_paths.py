"""Which files and folders on disk a job may name by path."""

from __future__ import annotations

import glob
from pathlib import Path

from shared.errors import InvalidInput

MAX_GLOBBED = 100_000


def allowed_file(name: str, allowed: tuple[Path, ...], *, field: str) -> Path:
    """``name`` as a real path, if it is a file below one of the ``allowed`` folders after following links.

    Raises:
        InvalidInput: it is not; the message does not tell whether a file outside exists.
    """
    file = _inside(_path(name, field), name, allowed, field)
    if not _is_there(file, name, field, folder=False):
        raise InvalidInput(f"There is no file {name[:200]!r}.", code="data_missing", field=field)
    return file


def allowed_file_or_folder(name: str, allowed: tuple[Path, ...], *, field: str) -> Path:
    """As ``allowed_file``, for a folder too: the allowed ones and those below them."""
    path = _inside(_path(name, field), name, allowed, field)
    if not _is_there(path, name, field, folder=True):
        raise InvalidInput(f"There is no file or folder {name[:200]!r}.", code="data_missing", field=field)
    return path


def allowed_files(pattern: str, allowed: tuple[Path, ...], *, field: str) -> list[Path]:
    """The files that a path or a glob (``*``, ``?``, ``[...]``) names, by name.

    Raises:
        InvalidInput: as ``allowed_file`` does, for the folder that is looked into and for each file found; or there
            is none.
    """
    if not glob.has_magic(pattern):
        return [allowed_file(pattern, allowed, field=field)]
    path = _path(pattern, field)
    fixed = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    folder = _inside(fixed, pattern, allowed, field)
    rest = str(path.relative_to(fixed))
    if ".." in Path(rest).parts:
        raise InvalidInput(
            f"{pattern[:200]!r} goes up behind a wildcard.", code="path_not_allowed", field=field
        )
    found = sorted(glob.glob(rest, root_dir=folder))
    files = [
        allowed_file(str(folder / name), allowed, field=field) for name in found if (folder / name).is_file()
    ]
    if not files:
        raise InvalidInput(f"No file matches {pattern[:200]!r}.", code="data_missing", field=field)
    if len(files) > MAX_GLOBBED:
        raise InvalidInput(
            f"{len(files)} files match {pattern[:200]!r}; the limit is {MAX_GLOBBED}.", field=field
        )
    return files


def _path(name: str, field: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # the home of a user that there is not
        raise _unreadable(name, error, field) from None


def _is_there(path: Path, name: str, field: str, *, folder: bool) -> bool:
    try:
        return path.is_file() or (folder and path.is_dir())
    except OSError as error:  # too long a name, a folder that is closed to us
        raise _unreadable(name, error.strerror, field) from None


def _unreadable(name: str, why: object, field: str) -> InvalidInput:
    return InvalidInput(f"{name[:200]!r} can't be read: {why}.", code="file_unreadable", field=field)


def _inside(path: Path, name: str, allowed: tuple[Path, ...], field: str) -> Path:
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise _unreadable(name, error, field) from None
    if not any(real.is_relative_to(folder.resolve()) for folder in allowed):
        raise InvalidInput(
            f"{name[:200]!r} is neither an uploaded dataset's id nor a file in a folder the operator allows.",
            code="path_not_allowed",
            field=field,
            hint="Upload the file with POST /datasets, or allow its folder: modelyard up --allow-path FOLDER "
            "(MODELYARD_ALLOWED_PATHS).",
        )
    return real
