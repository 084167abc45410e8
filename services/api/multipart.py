"""Reads one file out of a multipart body while it arrives: nothing is gathered in memory or in a temporary folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.api.errors import Malformed

MAX_FIELD_BYTES = 10_000


class FilePart:
    """The bytes of the part called ``wanted``; iterate over it once. ``fields`` has the short text parts seen."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes], wanted: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise Malformed("The Content-Type of a multipart body needs a boundary.")
        self._body = body
        self._wanted = wanted
        self._name = ""
        self._header = (b"", b"")
        self._data: list[bytes] = []
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.found = False
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise Malformed(f"The boundary of the multipart body can't be used: {error}.") from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks of the file.

        Raises:
            Malformed: not a multipart body, or it has no such part.
        """
        try:
            async for chunk in self._body:
                self._parser.write(chunk)
                if self._data:
                    yield b"".join(self._data)
                    self._data.clear()
            self._parser.finalize()
        except FormParserError as error:
            raise Malformed(f"The multipart body is broken: {error}.") from None
        if not self.found:
            raise Malformed(
                f"The form has no file field {self._wanted!r}.",
                hint=f"For example: curl -F {self._wanted}=@data.csv",
            )
        if not self._ended:  # the parser does not mind
            raise Malformed("The multipart body is cut short: its last boundary is missing.")

    def _on_part_begin(self) -> None:
        self._name = ""
        self._header = (b"", b"")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        self._header = (b"", b"")
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == self._wanted:
            if self.found:
                raise Malformed(f"The form has two fields {self._wanted!r}; send one file at a time.")
            self.found = True
            self.file_name = options.get(b"filename", b"").decode("utf-8", "replace") or None

    def _on_end(self) -> None:
        self._ended = True

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._wanted:
            self._data.append(data[start:end])
        else:
            text = self.fields.get(self._name, "") + data[start:end].decode("utf-8", "replace")
            if len(text) > MAX_FIELD_BYTES or len(self.fields) > 100:
                raise Malformed("The form has fields that don't belong here.")
            self.fields[self._name] = text
