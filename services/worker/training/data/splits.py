"""Which rows are held out: a pure function of the seed, the number of rows and, if stratified, their classes."""

from __future__ import annotations

import numpy as np

from services.worker.training.data.record import Array, Rows
from services.worker.training.failures import data_invalid


def hold_out(
    rows: Rows, fraction: float, seed: int, *, purpose: int, field: str, stratify: bool = False
) -> tuple[Rows, Rows | None]:
    """(kept, held out); the second is None for a fraction of 0. Both keep the rows' order.

    Args:
        rows: all rows.
        fraction: of the rows, rounded, at least one.
        seed: the job's.
        purpose: a number that keeps two splits of one job independent.
        field: the spec's field, for the error.
        stratify: hold out ``fraction`` of each class; targets are then class numbers.
    """
    if not fraction:
        return rows, None
    total = len(rows)
    count = max(1, round(total * fraction))
    if count >= total:
        raise data_invalid(f"{field} of {fraction} leaves no training rows: there are {total} rows in all")
    random = np.random.default_rng([seed, purpose])
    chosen = np.zeros(total, dtype=bool)
    if stratify:
        chosen[_stratified(rows.y, fraction, count, random)] = True
    else:
        chosen[random.permutation(total)[:count]] = True
    return rows.subset(~chosen), rows.subset(chosen)


def _stratified(y: Array, fraction: float, count: int, random: np.random.Generator) -> Array:
    """Row numbers, ``count`` in all: each class gives its share, rounded by largest remainders.

    A class keeps at least one row for training.
    """
    _, codes, sizes = np.unique(y, return_inverse=True, return_counts=True)
    wanted = sizes * fraction
    taken = np.minimum(np.floor(wanted).astype(np.int64), sizes - 1)
    for index in np.argsort(-(wanted - np.floor(wanted)), kind="stable"):
        if taken.sum() >= count:
            break
        if taken[index] < sizes[index] - 1:
            taken[index] += 1
    order = random.permutation(len(y))
    grouped = order[np.argsort(codes[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.concatenate([grouped[start : start + n] for start, n in zip(starts, taken, strict=True)])
