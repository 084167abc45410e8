"""An array on disk that grows by its first axis while it is written, so that data larger than memory can be kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from services.worker.training.data.record import Array


class RowsFile:
    """Writes one ``.npy`` file piece by piece. Its header has room for any number of rows from the beginning."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.path = path
        self.rows = 0
        self.dtype, self.row_shape = dtype, row_shape
        self._hash = hashlib.sha256(f"{dtype.str}{row_shape}".encode())
        self._file: IO[bytes] = path.open("wb")
        self._begin = self._header()

    def append(self, rows: Array) -> None:
        """Add ``rows`` [n, *row_shape] of the file's dtype.

        Raises:
            OSError: the disk is full.
        """
        data = np.ascontiguousarray(rows, dtype=self.dtype)
        self._hash.update(data.data)
        self._file.write(data.data)
        self.rows += len(data)

    def close(self) -> tuple[Array, str]:
        """The whole array, mapped copy-on-write, and the SHA-256 (hex) of its dtype, row shape and bytes."""
        self._file.seek(0)
        end = self._header()
        assert end == self._begin, "numpy keeps room for 21 digits of rows"  # noqa: S101
        self._file.close()
        return np.load(self.path, mmap_mode="c", allow_pickle=False), self._hash.hexdigest()

    def abandon(self) -> None:
        """Close and delete."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _header(self) -> int:
        description = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, description)
        return self._file.tell()
