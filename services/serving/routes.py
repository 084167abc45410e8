"""TensorFlow Serving's URLs, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from services.serving.errors import invalid_argument
from services.serving.inference import Target

# The prefix and the fixed words match in any case; what they lead to is looked at more strictly afterwards.
_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<model>[^/:]+){_WHICH}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_WHICH}(?:/(?P<verb>metadata))?", re.IGNORECASE)
_LIST = re.compile(r"/v1/models", re.IGNORECASE)
# What a URI may be made of (RFC 3986); TensorFlow Serving's HTTP library refuses others.
_URI = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?#-]|%[0-9A-Fa-f]{2})*")
_LARGEST = 2**63 - 1
_MOST_DIGITS = 19


@dataclass(frozen=True)
class Route:
    """``verb`` is predict, classify, regress, metadata, status or list (which has no target's name)."""

    verb: str
    target: Target


class VersionTooLarge(Exception):
    """The version is beyond int64: TensorFlow Serving answers 400 with an empty body."""


def parse_route(method: str, path: str) -> Route:
    """Take apart a raw path, query string included, beginning with ``/v1/``.

    Raises:
        ServingError: INVALID_ARGUMENT for anything else than the documented URLs.
        VersionTooLarge: for a version number beyond int64.
    """
    malformed = invalid_argument(f"Malformed request: {method} {path}")
    if _URI.fullmatch(path) is None:
        raise malformed
    if method == "GET" and _LIST.fullmatch(path):
        return Route("list", Target(""))
    match = {"POST": _POST, "GET": _GET}[method].fullmatch(path) if method in ("POST", "GET") else None
    if match is None:
        raise malformed
    version = _number(match["version"])
    verb = match["verb"] or "status"
    if method == "POST" and verb != verb.lower():
        raise malformed
    if not match["model"]:
        raise invalid_argument("Missing model name in request.")
    return Route(
        # Real oddity: /METADATA matches the pattern, is not "metadata", and so answers the status.
        verb if verb in ("metadata", "predict", "classify", "regress") else "status",
        Target(
            _decoded(match["model"]),
            version,
            None if match["label"] is None else _decoded(match["label"]),
        ),
    )


def _number(digits: str | None) -> int | None:
    if digits is None:
        return None
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS or int(digits) > _LARGEST:  # int() refuses thousands of digits
        raise VersionTooLarge
    return int(digits)


def _decoded(part: str) -> str:
    return unquote_to_bytes(part).decode("utf-8", "surrogateescape")
