"""Which rows are held out: a pure function of the seed and the number of rows."""

from __future__ import annotations

import numpy as np

from services.worker.training.data.record import Rows
from services.worker.training.failures import data_invalid


def hold_out(rows: Rows, fraction: float, seed: int, *, purpose: int, field: str) -> tuple[Rows, Rows | None]:
    """(kept, held out); the second is None for a fraction of 0. Both keep the rows' order.

    Args:
        rows: all rows.
        fraction: of the rows, rounded, at least one.
        seed: the job's.
        purpose: a number that keeps two splits of one job independent.
        field: the spec's field, for the error.
    """
    if not fraction:
        return rows, None
    total = len(rows)
    count = max(1, round(total * fraction))
    if count >= total:
        raise data_invalid(f"{field} of {fraction} leaves no training rows: there are {total} rows in all")
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng([seed, purpose]).permutation(total)[:count]] = True
    return Rows(rows.x[~chosen], rows.y[~chosen]), Rows(rows.x[chosen], rows.y[chosen])
