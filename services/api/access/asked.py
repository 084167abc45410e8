"""What the door reads of a request: a few of its headers, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable

_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"forwarded", b"x-real-ip"})
_READ = _FORWARDED | {
    b"host", b"authorization", b"x-api-key", b"origin", b"sec-fetch-site", b"cookie", b"accept",
}  # fmt: skip
UNKNOWN = "unknown"  # an address


class Asked:
    """``given`` is an API key as the caller sent it, ``secret`` what was looked up: that key, or a session's token.

    ``forwarded``: a proxy says that it asks for somebody else.
    """

    __slots__ = ("address", "cookie", "forwarded", "given", "host", "html", "origin", "secret", "site")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], client: tuple[str, int] | None) -> None:
        self.given: str | None = None
        self.secret = ""
        self.host = self.cookie = ""
        self.origin: str | None = None
        self.site: str | None = None
        self.html = self.forwarded = False
        own: str | None = None
        for name, value in headers:
            if name not in _READ:
                continue
            if name == b"host":
                self.host = value.decode("latin-1")
            elif name == b"accept":
                self.html = b"text/html" in value
            elif name == b"authorization":
                scheme, _, rest = value.decode("latin-1").partition(" ")
                if scheme.lower() == "bearer":
                    self.given = rest.strip()
            elif name == b"x-api-key":
                own = value.decode("latin-1").strip()
            elif name == b"origin":
                self.origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                self.site = value.decode("latin-1")
            elif name == b"cookie":
                self.cookie += value.decode("latin-1") + ";"
            else:
                self.forwarded = True
        self.given = self.given or own
        self.address: str = client[0] if client else UNKNOWN
