"""Whether rows are kept in memory or read from disk while training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from services.worker.memory import available_bytes
from services.worker.training.data.record import Rows, TrainingData
from services.worker.training.data.row_file import RowFile
from shared.specs.dataset_options import DatasetOptions

SMALL_BYTES = 256 * 2**20  # not worth a look at how much is free
SHARE = 0.5


def placed(data: TrainingData, spec: DatasetOptions) -> TrainingData:
    """``data`` with the rows where ``spec.cache`` wants them."""
    size = data.train.x.size * data.train.x.dtype.itemsize
    if kept_in_memory(spec.cache, size):
        return data
    test = _on_disk(data.test) if data.test is not None else None
    return replace(data, train=_on_disk(data.train), test=test, pipeline=spec.pipeline)


def kept_in_memory(cache: bool | Literal["auto"], size: int) -> bool:
    """``auto``: what is small, or takes less than half of what is free."""
    if cache != "auto":
        return cache
    return size <= SMALL_BYTES or size < SHARE * available_bytes()


def _on_disk(rows: Rows) -> Rows:
    """Memory-mapped inputs as a ``RowFile``; those that are in memory already stay there."""
    x = rows.x
    if not isinstance(x, np.memmap) or x.filename is None or not x.flags.c_contiguous:
        return rows
    file = RowFile(
        Path(str(x.filename)), offset=x.offset, stored=x.dtype, rows=len(x), row_shape=tuple(x.shape[1:])
    )
    return Rows(file, np.array(rows.y))
