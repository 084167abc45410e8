"""Which files on disk a job may name by path."""

from __future__ import annotations

from pathlib import Path

from shared.errors import InvalidInput


def allowed_file(name: str, allowed: tuple[Path, ...], *, field: str) -> Path:
    """``name`` as a real path, if it is a file below one of the ``allowed`` folders after following links.

    Raises:
        InvalidInput: it is not; the message does not tell whether a file outside exists.
    """
    file = Path(name).expanduser().resolve()
    if not any(file.is_relative_to(folder.resolve()) for folder in allowed):
        raise InvalidInput(
            f"{name[:200]!r} is neither an uploaded dataset's id nor a file in a folder the operator allows.",
            code="path_not_allowed",
            field=field,
            hint="Upload the file with POST /datasets, or allow its folder: modelyard up --allow-path FOLDER "
            "(MODELYARD_ALLOWED_PATHS).",
        )
    if not file.is_file():
        raise InvalidInput(f"There is no file {name[:200]!r}.", code="data_missing", field=field)
    return file
