"""Names that become paths or URLs, and ids that sort by time."""

from __future__ import annotations

import os
import re
import time

from shared.errors import InvalidInput

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
_NAME = re.compile(NAME_PATTERN)
# Crockford's base 32: no I, L, O, U, so ids survive being read aloud.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def checked_name(value: str, *, field: str) -> str:
    """Return ``value`` if it may be used as a folder and in a URL.

    A purely numeric name would read as a version folder, so it is refused too.

    Raises:
        InvalidInput: with ``field`` and the rule that was broken.
    """
    if not _NAME.fullmatch(value) or value.isdigit():
        raise InvalidInput(
            f"{value[:80]!r} can't be used as a name.",
            code="invalid_name",
            field=field,
            hint="Use 1 to 63 letters, digits, '-' or '_', beginning with a letter or digit, not digits alone.",
        )
    return value


def new_id(prefix: str, *, now: float | None = None) -> str:
    """A new id such as ``job_06cf8m2k1x3q9r7t5vnw0a``: 48 bits of milliseconds, then 62 random bits.

    Ids made in different milliseconds sort by time as text.
    """
    millis = int((time.time() if now is None else now) * 1000)
    number = (millis << 62) | (int.from_bytes(os.urandom(8)) >> 2)
    digits = []
    for _ in range(22):
        number, rest = divmod(number, 32)
        digits.append(_ALPHABET[rest])
    return f"{prefix}_{''.join(reversed(digits))}"


ID_PATTERN = re.compile(r"^[a-z]{2,8}_[0-9a-hjkmnp-tv-z]{22}$")
