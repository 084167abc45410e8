"""Weights as pictures: a dense kernel as a matrix, a convolution's as a grid of its windows."""

from __future__ import annotations

import numpy as np

from services.worker.training.data.record import Array

MAX_PIXELS = 1_000_000


def as_image(values: Array) -> Array | None:
    """uint8 [1, height, width, 1], smallest value black and largest white; None if it would be too large.

    A vector is one row. [height, width, in, out] is a grid with a row for each input channel and a column for
    each filter, with a pixel between two windows.
    """
    if not 0 < values.size <= MAX_PIXELS or not np.isfinite(values).all():
        return None
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) * (255.0 / (high - low) if high > low else 0.0)).astype(np.uint8)
    if values.ndim == 4:
        picture = _grid(scaled)
    elif values.ndim == 2:
        picture = scaled if scaled.shape[0] <= scaled.shape[1] else scaled.T
    else:
        picture = scaled.reshape(1, -1)
    return picture[np.newaxis, :, :, np.newaxis] if picture.size <= 2 * MAX_PIXELS else None


def _grid(kernel: Array) -> Array:
    height, width, inputs, filters = kernel.shape
    grid = np.zeros((inputs * (height + 1) - 1, filters * (width + 1) - 1), np.uint8)
    for row in range(inputs):
        for column in range(filters):
            top, left = row * (height + 1), column * (width + 1)
            grid[top : top + height, left : left + width] = kernel[:, :, row, column]
    return grid
