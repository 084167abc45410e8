"""Server-sent events from bytes, as the WHATWG's HTML standard reads them. No network here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Only these end a line. str.splitlines, and so httpx' iter_lines, also splits at U+2028, which JSON may hold.
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Message:
    """One event of the stream."""

    event: str
    data: str
    id: str | None  # as sent with this message; None: it did not carry one


class Decoder:
    """Feed it pieces of any size. A message that the stream's end cuts off is never given out."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that ``piece`` completes."""
        *lines, self._rest = _LINE_END.split(self._rest + piece)
        if not self._rest and piece.endswith(b"\r"):
            # perhaps the first half of \r\n: decide when more is here
            self._rest = lines.pop() + b"\r"
        for line in lines:
            if (message := self._take(line.decode(errors="replace"))) is not None:
                yield message

    def _take(self, line: str) -> Message | None:
        if not line:
            return self._complete()
        if line.startswith(":"):
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _complete(self) -> Message | None:
        message = Message(self._event or "message", "\n".join(self._data), self._id) if self._data else None
        self._event, self._data, self._id = "", [], None
        return message
