"""Reads request bodies as JSON and checks them against a model, with errors a person can act on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from services.api.errors import Malformed
from services.api.fields import BodyInvalid
from shared.errors import InvalidInput, TooLarge

T = TypeVar("T")


async def short_body(request: Request, most: int, message: str) -> bytes:
    """The body of a route whose bodies have at most ``most`` bytes; no more of a longer one is read.

    Raises:
        TooLarge: with ``message``.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(message)
    return bytes(body)


def json_of(raw: bytes) -> Any:
    """The JSON value in ``raw``, whatever its content type says.

    Raises:
        Malformed: no body, or not JSON.
    """
    if not raw.strip():
        raise Malformed("The request has no body.", hint="Send a JSON object.")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed(
            f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).",
            code="malformed_json",
            hint="NaN and Infinity are not part of JSON." if b"NaN" in raw or b"Infinity" in raw else None,
        ) from None
    except RecursionError:
        raise Malformed("The body is nested too deeply.", code="malformed_json") from None


def json_or_bare_nan(raw: bytes) -> Any:
    """As ``json_of``, but ``NaN``, ``Infinity`` and ``-Infinity`` are numbers, as TensorFlow Serving has it.

    Raises:
        Malformed: as ``json_of``.
    """
    try:
        return json_of(raw)
    except Malformed:
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise
        try:
            return json.loads(raw)  # ten times slower, and knows these three
        except (ValueError, RecursionError):
            pass  # it is broken elsewhere, or there too
        raise


def checked(parse: Callable[[Any], T], data: Any) -> T:
    """``parse(data)``, with pydantic's errors tied to the data they are about.

    Raises:
        BodyInvalid: naming each offending field.
    """
    try:
        return parse(data)
    except ValidationError as error:
        raise BodyInvalid(error, data) from None
    except RecursionError:
        raise InvalidInput("The body is nested too deeply.") from None


def refuse_nul(raw: bytes) -> None:
    """Refuse U+0000, which neither PostgreSQL nor any file system can keep.

    Raises:
        InvalidInput: the JSON text has one somewhere.
    """
    if b"\\u0000" in raw.replace(b"\\\\", b""):
        raise InvalidInput("The body has a NUL character (U+0000) in a text.")
