"""Turns pydantic's error locations into the dotted paths of what the client really sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from shared.keys import RATE_PATTERN
from shared.names import NAME_PATTERN
from shared.specs.dataset import TFDS_PATTERN
from shared.specs.devices import PHYSICAL_DEVICE_PATTERN
from shared.specs.strategy import DEVICE_PATTERN

MAX_ERRORS = 20
_QUOTE = "'"  # pydantic's around the field that tells kinds apart
_NAMED = re.compile(r"[a-z_]+(\.[a-z_]+)+(?= )")
_ADDED = "params"  # never a tag: put in where a name alone was given
_FORMS = {
    NAME_PATTERN: "Use 1 to 63 letters, digits, '-' or '_', beginning with a letter or digit.",
    RATE_PATTERN: "Say it as '600/minute': a number, '/', and second, minute, hour or day.",
    PHYSICAL_DEVICE_PATTERN: "Name physical devices as GET /workers does: 'CPU:0' or 'GPU:0', 'GPU:1', ...",
    TFDS_PATTERN: "Name it as tensorflow_datasets does: 'mnist', 'cifar10:3.0.2' or 'emnist/letters'.",
    DEVICE_PATTERN: "Name a device as 'GPU:0' or 'CPU:1', or as TensorFlow does: '/device:GPU:0'.",
}
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
    path = real_path(item["loc"], data, missing=item["type"] == "missing")
    if item["type"] == "union_tag_not_found":
        path = [*path, str(item["ctx"]["discriminator"]).strip(_QUOTE)]
    message = _sentence(item)
    named = (
        _NAMED.match(message) if not path else None
    )  # what spans parts of a job begins with the field to change
    return {"field": dotted(path) or (named and named[0]), "message": message, "type": item["type"]}


def _sentence(item: Any) -> str:
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "Should be a JSON object."
    if item["type"] == "extra_forbidden":
        return "There is no such field."
    if item["type"] == "string_pattern_mismatch" and (words := _FORMS.get(item["ctx"]["pattern"])):
        return words
    if item["type"] == "union_tag_not_found":
        return "Is missing: it says which kind is meant."
    if item["type"] == "union_tag_invalid":
        told = item["ctx"]
        return f"There is no such {str(told['discriminator']).strip(_QUOTE)}. There are: {told['expected_tags']}."
    message = str(item["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    first = message.partition(" ")[0]
    return (
        message if "_" in first or "." in first[:-1] else message[:1].upper() + message[1:]
    )  # not a field's name


def dotted(path: Location) -> str:
    """``["a", 0, "b"]`` as ``a.0.b``."""
    return ".".join(str(part)[:80] for part in path)


def real_path(location: Location, data: Any, *, missing: bool = False) -> list[int | str]:
    """``location`` without the tags of unions, which pydantic puts in and no client has written.

    With ``data`` {"model": {"builder": "mlp", "units": 3}}, ("model", "builder", "units") is model.units, and
    ("model", "units", "constrained-int") is too. ``missing``: the last part is a key that ``data`` lacks, not a tag.
    """
    path = list(location)
    if data is None:
        # query, path and header parameters: the first element says which of these
        return path[1:] if path and path[0] in ("query", "path", "header", "cookie", "body") else path
    found = _walk(path, data, missing)
    return path if found is None else found[2]


_Reading = tuple[bool, int, list[int | str]]


def _walk(path: list[int | str], data: Any, missing: bool) -> _Reading | None:
    """(whether the last part was found, how many were, the path without tags); None: ``path`` does not fit ``data``."""
    if not path:
        return False, 0, []
    head, rest = path[0], path[1:]
    readings: list[_Reading] = []
    inside = (isinstance(data, dict) and head in data) or (
        isinstance(data, list) and isinstance(head, int) and head < len(data)
    )
    lacking = missing and not rest
    if inside and not lacking and (deeper := _walk(rest, data[head], missing)) is not None:
        readings.append((deeper[0] or not rest, deeper[1] + 1, [head, *deeper[2]]))
    if head == _ADDED and rest and isinstance(data, dict | str) and not inside:
        within = _walk(rest, {}, missing)
        readings += [] if within is None else [(within[0], within[1], [head, *within[2]])]
    elif lacking:
        if isinstance(data, dict) and not inside:
            readings.append((False, 0, [head]))
    elif (skipped := _walk(rest, data, missing)) is not None:
        # a tag; '[key]', where the error is about the key itself; an index into what is no list before validation
        readings.append(skipped)
    return max(readings, key=lambda reading: reading[:2], default=None)
