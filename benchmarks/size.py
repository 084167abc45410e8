"""How large a measurement is: whole, or with ``BENCH_SMALL=1`` only large enough to see that it works."""

from __future__ import annotations

import os

SMALL = bool(os.environ.get("BENCH_SMALL"))


def sized(whole: int, small: int) -> int:
    """``whole``, or ``small`` in a trial."""
    return small if SMALL else whole
