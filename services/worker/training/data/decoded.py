"""Decoded arrays on disk: made once, memory-mapped by every later job, shared by jobs that run at once.

A folder is complete or absent: it is written beside its place and renamed. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from services.worker.training.data.row_file import Array
from services.worker.training.failures import TrainingFailed

FORMAT = 2
SPARE_BYTES = 256 * 2**20  # left free for checkpoints, logs and everybody else


def read(folder: Path) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """Arrays by name, mapped copy-on-write, and the notes; None if there is no such folder of this format."""
    try:
        notes = json.loads((folder / "notes.json").read_text())
        if notes.get("format") != FORMAT:
            return None
        arrays: dict[str, Array] = {
            # copy-on-write, for a read-only array can't be handed to TensorFlow without a copy
            name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            for name in notes["arrays"]
        }
    except (OSError, ValueError, KeyError):
        return None
    if any(list(arrays[name].shape) != shape for name, shape in notes["arrays"].items()):
        return None
    return arrays, notes


def require_room(folder: Path, size: int) -> None:
    """Whether ``size`` bytes and some to spare are free where ``folder`` is to lie.

    Raises:
        TrainingFailed: disk_full, with both numbers, before any work is done.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if size + SPARE_BYTES > free:
        raise TrainingFailed(
            "disk_full",
            f"Decoded, the data take {size / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are free in "
            f"{folder.parent}.",
            "Free some room (the folder 'cache' of the home may be emptied while no job runs), or use part of the "
            "data.",
        )


def fingerprint_of(**parts: str | None) -> str:
    """One fingerprint for all that a job reads, from those of its parts by name; parts that are None are left out.

    ``run`` compares it when a job is reproduced: a changed test split is other data, even with the same training rows.
    """
    text = "".join(f"{name} {found}\n" for name, found in parts.items() if found is not None)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class Writer:
    """Writes arrays row by row, of a number not known before; hashes them on the way.

    Use it as a context; what was not finished by ``finish`` leaves nothing behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._digests: dict[str, Any] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._counts: dict[str, int] = {}

    @property
    def rows(self) -> int:
        """Rows of the longest array so far."""
        return max(self._counts.values(), default=0)

    def __enter__(self) -> Writer:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._staging = Path(tempfile.mkdtemp(prefix=f".{self._folder.name}-", dir=self._folder.parent))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._staging, ignore_errors=True)

    def append(self, **parts: Array) -> None:
        """Add rows to arrays; dtype and row shape are those of the first call. At the end all must be equally long.

        Raises:
            OSError: the disk is full.
            ValueError: rows unlike the earlier ones.
        """
        for name, part in parts.items():
            rows = np.ascontiguousarray(part)
            if name not in self._files:
                self._begin(name, rows)
            if (rows.dtype, rows.shape[1:]) != self._kinds[name]:
                raise ValueError(f"{name}: {rows.dtype} {rows.shape[1:]} after {self._kinds[name]}")
            data = rows.reshape(-1).view(np.uint8).data
            self._digests[name].update(data)
            self._files[name].write(data)
            self._counts[name] += len(rows)

    def finish(self, notes: dict[str, Any]) -> None:
        """Put the folder in its place, with a ``fingerprint`` of the arrays in its notes.

        Losing a race against another job is fine: the first one's stay.

        Raises:
            OSError: the disk is full, or not ours.
        """
        if len(set(self._counts.values())) != 1:
            raise ValueError(f"arrays of unequal length: {self._counts}")
        total = hashlib.sha256()
        shapes: dict[str, list[int]] = {}
        for name in sorted(self._files):
            dtype, row = self._kinds[name]
            shapes[name] = [self.rows, *row]
            total.update(f"{name} {dtype} {shapes[name]} {self._digests[name].hexdigest()}\n".encode())
            file = self._files[name]
            file.seek(0)
            self._header(file, name, self.rows)
            file.flush()
            os.fsync(file.fileno())
            file.close()
        content = {"fingerprint": f"sha256:{total.hexdigest()}", **notes, "format": FORMAT, "arrays": shapes}
        (self._staging / "notes.json").write_text(json.dumps(content))
        if self._folder.exists() and read(self._folder) is None:
            shutil.rmtree(self._folder, ignore_errors=True)  # damaged, or of an older format
        with contextlib.suppress(OSError):  # not empty: another job was first
            self._staging.rename(self._folder)

    def _begin(self, name: str, rows: Array) -> None:
        self._kinds[name] = (rows.dtype, rows.shape[1:])
        self._digests[name], self._counts[name] = hashlib.sha256(), 0
        self._files[name] = (self._staging / f"{name}.npy").open("wb", buffering=2**20)
        self._header(self._files[name], name, 0)

    def _header(self, file: IO[bytes], name: str, count: int) -> None:
        # NumPy leaves room in a header for the first axis to grow, so it keeps its length when written again
        dtype, row = self._kinds[name]
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (count, *row),
            },
        )


def must_read(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """What was just written.

    Raises:
        TrainingFailed: disk_full, if the cache's file system does not keep what is written.
    """
    found = read(folder)
    if found is None:
        raise TrainingFailed(
            "disk_full",
            f"The decoded data could not be kept in {folder.parent}.",
            "Check the file system of the home's folder 'cache'.",
        )
    return found
