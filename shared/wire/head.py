"""Heads of requests, as far as they are simple; no attempt is made at others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Headers = list[tuple[bytes, bytes]]

# RFC 9112, 3 and 5: what every client sends. No other version, no other form of target, no folded lines.
_SIMPLE = re.compile(
    rb"(GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS) (/[!\"$-~]*) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_MOST_DIGITS = 15
# They change how a body is read.
_SPECIAL = frozenset({b"transfer-encoding", b"expect"})
# What a connection's options may be without a change of what becomes of it: an upgrade that is asked for may be passed
# over (RFC 9110, 7.8), and Java's client asks for HTTP/2 at each of its requests.
_HARMLESS = frozenset({b"keep-alive", b"upgrade", b"http2-settings"})
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
_OF_UPGRADES = re.compile(rb"\r\n(?:upgrade|connection|http2-settings)[ \t]*:[^\r\n]*", re.IGNORECASE)


@dataclass(slots=True, eq=False)
class Head:
    """A request up to its body. ``target`` is the raw path with its query; names of headers are in lower case.

    A client's next request with the very same head has this object too: ``note`` is for what an application found out
    about it, and nothing else is to be changed.
    """

    method: str
    target: bytes
    headers: Headers
    length: int  # of the body, in bytes
    note: Any = None

    def header(self, wanted: bytes) -> bytes:
        """The first header of this name; empty if there is none."""
        for name, value in self.headers:
            if name == wanted:
                return value
        return b""


def parse_head(raw: bytes) -> Head | None:
    """The head that ``raw`` is, with the empty line at its end; None: leave it to a whole parser.

    That is anything unusual: a body without a known length, a connection that is to be closed, HTTP/1.0, mistakes
    of any kind.
    """
    found = _SIMPLE.fullmatch(raw)
    if found is None:
        return None
    method, target, block = found.groups()
    headers: Headers = []
    length: bytes | None = None
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _MOST_DIGITS:
                return None
            length = value
        elif name in _SPECIAL or (name == b"connection" and not _keeps(value)):
            return None
        if name != b"upgrade":
            headers.append((name, value))
    return Head(method.decode("ascii"), target, headers, int(length or 0))


def _keeps(options: bytes) -> bool:
    return all(option.strip(b" \t") in _HARMLESS for option in options.lower().split(b","))


def without_upgrade(raw: bytes) -> bytes:
    """``raw``, which begins with a head, without its wish for another protocol, and with one to close instead.

    For a parser that takes what follows such a head for the other protocol, body and all.
    """
    end = raw.find(b"\r\n\r\n")
    if end < 0 or not _UPGRADE.search(raw, 0, end):
        return raw
    return _OF_UPGRADES.sub(b"", raw[:end]) + b"\r\nConnection: close" + raw[end:]
