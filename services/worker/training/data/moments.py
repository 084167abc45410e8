"""Mean and variance of columns or channels, in one pass over rows that need not fit into memory."""

from __future__ import annotations

import numpy as np

from services.worker.training.data.row_file import Array, RowArray, chunks_of


def mean_and_variance(x: RowArray) -> tuple[Array, Array]:
    """float64 [last axis] each, over all other axes of ``x`` [N, ...]; NaN counts as no value.

    Parts are combined as Chan, Golub and LeVeque (1979) do, so that large means cost no digits. The result is the
    same for the same rows in memory and on disk.
    """
    width = x.shape[-1]
    count = np.zeros(width)
    mean, squares = np.zeros(width), np.zeros(width)
    for part in chunks_of(x):
        values = part.reshape(-1, width).astype(np.float64)
        known = ~np.isnan(values)
        n = known.sum(axis=0)
        values[~known] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            here = np.where(n > 0, values.sum(axis=0) / n, 0.0)
        spread = (np.where(known, values - here, 0.0) ** 2).sum(axis=0)
        total = np.maximum(count + n, 1)
        delta = here - mean
        squares += spread + delta**2 * count * n / total
        mean += delta * n / total
        count += n
    return mean, squares / np.maximum(count, 1)
