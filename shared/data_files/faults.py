"""The error for a file that can't be used."""

from __future__ import annotations

from shared.errors import InvalidInput


def invalid(message: str, hint: str | None = None) -> InvalidInput:
    """What is wrong with a file, and what to do."""
    return InvalidInput(message, code="data_invalid", field="file", hint=hint)
