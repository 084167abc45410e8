"""Answers compressed for those who ask for it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence

# Smaller answers go out sooner as they are.
WORTH_PACKING = 16 * 2**10
PACKED = ((b"content-encoding", b"gzip"), (b"vary", b"accept-encoding"))
_ZERO = re.compile(rb"q=0(\.0*)?")


def takes_gzip(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether ``Accept-Encoding`` names gzip, and doesn't do so to exclude it."""
    for name, value in headers:
        if name == b"accept-encoding":
            for coding in value.lower().split(b","):
                kind, _, weight = coding.partition(b";")
                if kind.strip() == b"gzip":
                    return _ZERO.fullmatch(weight.strip()) is None
    return False


def pack(body: bytes) -> bytes:
    """Sooner rather than smaller."""
    return gzip.compress(body, compresslevel=1, mtime=0)
