"""Headers that tell browsers what an answer may do. No CORS header is among them: other sites' pages read nothing."""

from __future__ import annotations

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

# Answers are data. Among them are files that jobs wrote, which may be HTML: it runs no script and is nobody's page.
_DATA = b"default-src 'none'; frame-ancestors 'none'; sandbox"
# FastAPI's page of the API's description takes its program from this host and starts it in the page itself.
_DOCS = (
    b"default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; "
    b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_LOGIN = b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
# For pages of TensorBoard that bring no policy of their own; those that do keep it, but for who may frame them.
_BOARD = (
    b"default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; frame-src 'self'; object-src 'none'; "
    b"script-src 'self' 'unsafe-eval' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    b"frame-ancestors 'self'; base-uri 'self'"
)
_ALWAYS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    # not "no-referrer": browsers would then send "Origin: null" with the login form
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_FOR_DATA: Headers = [*_ALWAYS, (b"content-security-policy", _DATA), (b"x-frame-options", b"DENY")]
_FOR_PAGES: dict[str, Headers] = {
    "/docs": [*_ALWAYS, (b"content-security-policy", _DOCS), (b"x-frame-options", b"DENY")],
    "/docs/oauth2-redirect": [*_ALWAYS, (b"content-security-policy", _DOCS), (b"x-frame-options", b"DENY")],
    "/login": [*_ALWAYS, (b"content-security-policy", _LOGIN), (b"x-frame-options", b"DENY")],
}
_OURS = frozenset(name for name, _ in _FOR_DATA)
# As they are sent with answers of the hot path.
DATA_LINES = b"".join(b"%s: %s\r\n" % pair for pair in _FOR_DATA)


def secured(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """An answer's headers with ours; of an upstream's own only TensorBoard's policy stays."""
    if path.startswith("/tensorboard/"):
        return _of_board(list(headers))
    ours = _FOR_PAGES.get(path, _FOR_DATA)
    return [*without_ours(headers), *ours]


def without_ours(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """An upstream's headers next to which ``DATA_LINES`` may be sent."""
    return [pair for pair in headers if pair[0] not in _OURS]


def _of_board(headers: Headers) -> Headers:
    policy = next((value for name, value in headers if name == b"content-security-policy"), _BOARD)
    parts = [part.strip() for part in policy.split(b";")]
    kept = [part for part in parts if part and not part.startswith(b"frame-ancestors")]
    policy = b"; ".join([*kept, b"frame-ancestors 'self'"])
    others = [pair for pair in headers if pair[0] not in _OURS]
    return [*others, *_ALWAYS, (b"content-security-policy", policy), (b"x-frame-options", b"SAMEORIGIN")]
