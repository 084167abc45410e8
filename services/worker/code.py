"""Finds the user's own builders that a job names on this worker."""

from __future__ import annotations

from typing import Any

from services.worker.protocol import CodeSource
from shared import user_code
from shared.errors import InvalidInput
from shared.settings import Settings


def resolve_code(recorded: dict[str, Any], settings: Settings) -> list[CodeSource]:
    """The builders that a job records, as they are on this worker; the trainer compares the hashes.

    Raises:
        InvalidInput: builder_missing: this worker does not have one, or can't use it.
    """
    found = []
    for name, facts in recorded.items():
        builder = user_code.find(name, settings.code_dirs)
        if builder is None or builder.problem is not None:
            raise InvalidInput(
                f"This worker can't use the builder {name!r}. "
                + (builder.problem or "" if builder else "It is not in its code folders."),
                code="builder_missing",
                hint="Give all workers the same folders (MODELYARD_CODE_DIRS) and packages as the API.",
            )
        found.append(
            CodeSource(
                name=name,
                path=builder.path,
                hashed=builder.hashed or builder.path,
                package=builder.package,
                modules={key: entry.module for key, entry in builder.functions.items()},
                takes_params={key: entry.takes_params for key, entry in builder.functions.items()},
                sha256=facts.get("sha256"),
            )
        )
    return found
