"""Turns pydantic's error locations into the dotted paths of what the client really sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from shared.names import NAME_PATTERN

MAX_ERRORS = 20
Location = Sequence[int | str]


class BodyInvalid(Exception):
    """A pydantic error together with the data it is about, which tells union tags from real keys."""

    def __init__(self, error: ValidationError, data: Any) -> None:
        super().__init__(str(error))
        self.error = error
        self.data = data


def offending_fields(error: BodyInvalid | RequestValidationError) -> list[dict[str, Any]]:
    """``[{"field": ..., "message": ..., "type": ...}]``, at most 20, never empty."""
    data = error.data if isinstance(error, BodyInvalid) else None
    items = error.error.errors() if isinstance(error, BodyInvalid) else error.errors()
    return [_described(item, data) for item in items[:MAX_ERRORS]]


def _described(item: Any, data: Any) -> dict[str, Any]:
    path = real_path(item["loc"], data)
    return {"field": dotted(path) or None, "message": _sentence(item), "type": item["type"]}


def _sentence(item: Any) -> str:
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "Should be a JSON object."
    if item["type"] == "extra_forbidden":
        return "There is no such field."
    if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
        return "Use 1 to 63 letters, digits, '-' or '_', beginning with a letter or digit."
    message = str(item["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return message[:1].upper() + message[1:]


def dotted(path: Location) -> str:
    """``["a", 0, "b"]`` as ``a.0.b``."""
    return ".".join(str(part)[:80] for part in path)


def real_path(location: Location, data: Any) -> list[int | str]:
    """``location`` without the tags of unions, which pydantic puts in and no client has written.

    With ``data`` {"model": {"builder": "mlp", "units": 3}}, ("model", "builder", "units") is model.units.
    """
    path = list(location)
    if data is None:
        # query, path and header parameters: the first element says which of these
        return path[1:] if path and path[0] in ("query", "path", "header", "cookie", "body") else path
    found = _walk(path, data)
    return path if found is None else found[1]


def _walk(path: list[int | str], data: Any) -> tuple[bool, list[int | str]] | None:
    """(whether the place is there, the path without tags), or None when ``path`` does not fit ``data``."""
    if not path:
        return True, []
    head, rest = path[0], path[1:]
    readings: list[tuple[bool, list[int | str]]] = []
    if isinstance(data, dict):
        if head in data and (deeper := _walk(rest, data[head])) is not None:
            readings.append((deeper[0], [head, *deeper[1]]))
        elif head not in data and not rest:
            readings.append((False, [head]))  # a key that is missing
    elif isinstance(data, list):
        if isinstance(head, int) and head < len(data) and (deeper := _walk(rest, data[head])) is not None:
            readings.append((deeper[0], [head, *deeper[1]]))
    elif head == "[key]" and not rest:
        readings.append((True, []))  # the error is about the key itself
    if rest and isinstance(head, str) and (skipped := _walk(rest, data)) is not None:
        readings.append(skipped)
    return max(readings, key=lambda reading: reading[0], default=None)
