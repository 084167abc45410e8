"""API keys: their roles, what they look like, and what of them is kept.

A key is ``mdy_<prefix>_<secret>``: the prefix finds its row, the secret is 256 random bits. Kept is the SHA-256 of the
whole. A slow hash (bcrypt, argon2) would add nothing: it makes guessing what people think of dear, and nobody guesses
2**256 random secrets (NIST SP 800-63B, 5.1.2.2, asks for salts and slow hashes below 112 bits of entropy only).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import InvalidInput

MARK = "mdy"
_PREFIX_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_KEY = re.compile(rf"{MARK}_([{_PREFIX_LETTERS}]{{12}})_([A-Za-z0-9_-]{{43}})")
_PERIOD = re.compile(r"(\d{1,5})\s*(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
RATE_PATTERN = r"^[1-9][0-9]{0,8}/(second|minute|hour|day)$"


class Role(StrEnum):
    """What a key may do; ``services/api/access/rules.py`` says it route by route."""

    ADMIN = "admin"  # everything, keys and the audit log included
    DEVELOPER = "developer"  # jobs, datasets, models, and what the two below may
    PREDICTOR = "predictor"  # predictions, and which models there are
    VIEWER = "viewer"  # reads everything but keys and the audit log; changes nothing


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment at which it is whole."""

    text: str
    prefix: str
    sha256: str

    def __repr__(self) -> str:
        return f"<NewKey {self.prefix}>"


def new_key() -> NewKey:
    """A key nobody has."""
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(12))
    text = f"{MARK}_{prefix}_{secrets.token_urlsafe(32)}"
    return NewKey(text, prefix, digest(text))


def given_key(text: str, *, field: str) -> NewKey:
    """A key that was made elsewhere.

    Raises:
        InvalidInput: it is none.
    """
    prefix = prefix_of(text)
    if prefix is None:
        raise InvalidInput(
            "That is no API key.",
            code="invalid_key",
            field=field,
            hint="Make one with: modelyard keys generate",
        )
    return NewKey(text, prefix, digest(text))


def prefix_of(text: str) -> str | None:
    """The part that finds a key's row; None if ``text`` does not look like a key."""
    found = _KEY.fullmatch(text)
    return found.group(1) if found else None


def digest(text: str) -> str:
    """What is stored of a key or of a session's token: SHA-256, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def matches(text: str, sha256: str) -> bool:
    """Whether ``sha256`` was made of ``text``; takes as long for a near miss as for any other."""
    return hmac.compare_digest(digest(text), sha256)


def seconds_of(period: str, *, field: str) -> int:
    """``30d``, ``12h``, ``90m`` in seconds.

    Raises:
        InvalidInput: it is no period.
    """
    found = _PERIOD.fullmatch(period.strip())
    if found is None or int(found[1]) == 0:
        raise InvalidInput(
            f"{period[:40]!r} is not a period.", field=field, hint="For example 30d, 12h, 90m or 4w."
        )
    return int(found[1]) * _SECONDS[found[2]]
