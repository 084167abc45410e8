"""Rows of an array that stays on disk: read by number, so that memory holds the batch at hand and no more.

``np.memmap`` would do the reading too, but each page it touches counts as this process' memory until the system is
short of it. Here rows are read with ``preadv`` into the batch itself; what the system caches of the file is its own.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CHUNK_BYTES = 16 * 2**20


class RowFile:
    """An array [N, ...] in a file, C-contiguous; looks like a NumPy array to those who slice it. Thread-safe.

    ``dtype`` and ``row_shape`` are what reading gives; what lies in the file may have another dtype, and the same
    values a row in another shape. ``index`` (int64 [N]) picks rows of the file; None is all of them. ``fill`` ([last
    axis]) is read in place of NaN.
    """

    def __init__(
        self,
        path: Path,
        *,
        offset: int,
        stored: np.dtype[Any],
        rows: int,
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any] | None = None,
        index: Array | None = None,
        fill: Array | None = None,
    ) -> None:
        self.path, self._offset, self._stored, self._stored_rows = path, offset, stored, rows
        self.dtype = np.dtype(dtype if dtype is not None else stored)
        self._index, self._fill = index, fill
        self.shape = (rows if index is None else len(index), *row_shape)
        self._values = int(np.prod(row_shape, dtype=np.int64))
        self._row_bytes = self._values * stored.itemsize
        self._file = -1
        self._opening = threading.Lock()

    @classmethod
    def of_npy(cls, path: Path, *, begin: int = 0) -> RowFile:
        """The array of an .npy file, or of one that lies in another file from byte ``begin`` on.

        Raises:
            ValueError: it holds objects, is in Fortran order, or is not an .npy file.
        """
        with path.open("rb") as file:
            file.seek(begin)
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"version {version} of .npy")
            shape, fortran, dtype = read(file)
            offset = file.tell()
        if dtype.hasobject or fortran or not shape:
            raise ValueError("not rows of plain numbers")
        return cls(path, offset=offset, stored=dtype, rows=shape[0], row_shape=tuple(shape[1:]))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return len(self) * self._values

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Array) -> Array:
        """The rows of a slice, or of an array of row numbers or truth values, as an array in memory."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if self._index is None and step == 1:
                return self._run(start, max(start, stop))
            rows = np.arange(start, stop, step, dtype=np.int64)
        return self._gather(self._numbers(rows))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of it, in memory."""
        array = self[:]
        return array if dtype is None else array.astype(dtype, copy=False)

    def subset(self, rows: Array) -> RowFile:
        """The rows of these numbers or truth values, still on disk."""
        return self._like(index=self._numbers(rows))

    def viewed(
        self, *, row_shape: tuple[int, ...] | None = None, dtype: Any = None, fill: Array | None = None
    ) -> RowFile:
        """The same rows, read in another shape or dtype, or with something in place of NaN."""
        found = self._like(index=self._index)
        if row_shape is not None:
            if int(np.prod(row_shape, dtype=np.int64)) != self._values:
                raise ValueError(f"rows of {self.shape[1:]} can't be read as {row_shape}")
            found.shape = (len(self), *row_shape)
        if dtype is not None:
            found.dtype = np.dtype(dtype)
        if fill is not None:
            found._fill = fill
        return found

    def chunks(self) -> Iterator[Array]:
        """All rows in order, some megabytes at a time."""
        yield from chunks_of(self)

    def _like(self, *, index: Array | None) -> RowFile:
        return RowFile(
            self.path,
            offset=self._offset,
            stored=self._stored,
            rows=self._stored_rows,
            row_shape=self.shape[1:],
            dtype=self.dtype,
            index=index,
            fill=self._fill,
        )

    def _numbers(self, rows: Array) -> Array:
        rows = np.asarray(rows)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        return rows.astype(np.int64, copy=False) if self._index is None else self._index[rows]

    def _run(self, start: int, stop: int) -> Array:
        raw = np.empty((stop - start, self._values), self._stored)
        if raw.size:
            self._read(raw.view(np.uint8).reshape(-1), self._offset + start * self._row_bytes)
        return self._given(raw)

    def _gather(self, numbers: Array) -> Array:
        raw = np.empty((len(numbers), self._values), self._stored)
        if raw.size:
            target = raw.view(np.uint8).reshape(len(numbers), -1)
            # rows that follow one another in the file come with one read
            breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
            bounds = [0, *breaks.tolist(), len(numbers)]
            for begin, end in itertools.pairwise(bounds):
                place = self._offset + int(numbers[begin]) * self._row_bytes
                self._read(target[begin:end].reshape(-1), place)
        return self._given(raw)

    def _given(self, raw: Array) -> Array:
        with np.errstate(over="ignore"):  # a double may be too large for a float: the checks say so
            rows = raw.reshape(len(raw), *self.shape[1:]).astype(self.dtype, copy=False)
        if self._fill is not None:
            np.copyto(rows, self._fill, where=np.isnan(rows))
        return rows

    def _read(self, target: Array, place: int) -> None:
        done, descriptor = 0, self._descriptor()
        while done < len(target):
            count = os.preadv(descriptor, [target[done:].data], place + done)
            if not count:
                raise OSError(f"{self.path} is shorter than it was")
            done += count

    def _descriptor(self) -> int:
        with self._opening:
            if self._file < 0:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                weakref.finalize(self, os.close, self._file)
            return self._file


RowArray = Array | RowFile


def chunks_of(array: RowArray) -> Iterator[Array]:
    """Slices of an array in memory or on disk, some megabytes each."""
    row = int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize
    step = max(1, CHUNK_BYTES // max(1, row))
    for start in range(0, len(array), step):
        yield array[start : start + step]
