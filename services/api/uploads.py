"""Takes uploaded files in: to disk while they arrive, then looked into, then kept once per content. No FastAPI here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from anyio import to_thread

from shared import data_files
from shared.errors import InvalidInput, TooLarge
from shared.model_repo import DiskFull
from shared.names import new_id
from shared.store import Dataset, Store

MIB = 2**20
WRITE_BYTES = MIB
# Reading a large csv takes seconds of pure Python; in a process of its own it does not slow down other requests.
READ_APART_BYTES = 4 * MIB
LONGEST_NAME = 200
LEFTOVER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Received:
    """A file that arrived whole."""

    path: Path
    size_bytes: int
    sha256: str


class Uploads:
    """Thread-safe. ``folder`` is ``<home>/datasets``."""

    def __init__(self, store: Store, folder: Path, *, max_mb: int) -> None:
        self._store = store
        self._folder = folder
        self._limit = max_mb * MIB
        self._adding = threading.Lock()

    async def receive(self, chunks: AsyncIterator[bytes]) -> Received:
        """Write what arrives to a temporary file beside its target, hashing it on the way.

        Raises:
            TooLarge: as soon as the limit is passed.
            DiskFull: no room. In both cases nothing is left behind.
        """
        path, file = await to_thread.run_sync(self._temporary)
        digest, size, pending = hashlib.sha256(), 0, bytearray()

        def write(block: bytes) -> None:
            digest.update(block)
            file.write(block)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._limit:
                    raise TooLarge(
                        f"The file is larger than {self._limit // MIB} MiB.",
                        hint="The operator sets the limit with MODELYARD_MAX_UPLOAD_MB; a file that lies on the "
                        "server can be named by its path instead.",
                    )
                pending += chunk
                if len(pending) >= WRITE_BYTES:
                    await to_thread.run_sync(write, bytes(pending))
                    pending.clear()
            await to_thread.run_sync(self._finish, file, write, bytes(pending))
        except BaseException as error:
            file.close()
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"There is no room for the upload in {self._folder}.") from error
            raise
        return Received(path, size, digest.hexdigest())

    def keep(self, received: Received, name: str) -> tuple[Dataset, bool]:
        """Look into a received file and record it: (dataset, True), or the earlier one with the same bytes and False.

        Raises:
            InvalidInput: it is nothing that jobs can read. Nothing is left behind.
        """
        try:
            if known := self._known(received):
                return known, False
            kind, info = _inspect(received)
            dataset_id = new_id("ds")
            with self._adding:
                if known := self._known(received):  # uploaded twice at the same time
                    return known, False
                target = self._folder / dataset_id / f"data.{data_files.suffix_of(kind)}"
                target.parent.mkdir()
                received.path.replace(target)
                try:
                    return self._store.datasets.add(
                        dataset_id=dataset_id,
                        name=name,
                        kind=kind,
                        size_bytes=received.size_bytes,
                        sha256=received.sha256,
                        path=str(target.relative_to(self._folder)),
                        info=info,
                    ), True
                except BaseException:
                    shutil.rmtree(target.parent, ignore_errors=True)
                    raise
        finally:
            received.path.unlink(missing_ok=True)

    def delete(self, dataset_id: str) -> None:
        """Forget a dataset and remove its file.

        Raises:
            NotFound: no such dataset.
            Conflict: a job that has not ended names it.
        """
        dataset = self._store.datasets.delete(dataset_id)
        shutil.rmtree((self._folder / dataset.path).parent, ignore_errors=True)

    def sweep_leftovers(self) -> None:
        """Remove temporary files that a killed process left; one that is being written has a young date."""
        for path in self._folder.glob(".upload-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    path.unlink()

    def _known(self, received: Received) -> Dataset | None:
        for kind in data_files.KINDS:
            found = self._store.datasets.by_hash(received.sha256, kind)
            if found is not None and (self._folder / found.path).is_file():
                return found
        return None

    def _temporary(self) -> tuple[Path, IO[bytes]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".upload-", dir=self._folder)
        os.fchmod(handle, 0o644)  # the worker may run as another user of the same group
        return Path(name), os.fdopen(handle, "wb")

    @staticmethod
    def _finish(file: IO[bytes], write: Any, rest: bytes) -> None:
        write(rest)
        file.flush()
        os.fsync(file.fileno())
        file.close()


def checked_title(name: str | None, file_name: str | None) -> str:
    """The name people see: as given, or the file's.

    Raises:
        InvalidInput: it can't be shown on one line.
    """
    title = (name or file_name or "").strip() or "unnamed"
    if len(title) > LONGEST_NAME or not title.isprintable():
        raise InvalidInput(
            f"A dataset's name is one line of at most {LONGEST_NAME} characters.", field="name"
        )
    return title


def _inspect(received: Received) -> tuple[str, dict[str, Any]]:
    if received.size_bytes < READ_APART_BYTES:
        return data_files.inspect(received.path)
    run = subprocess.run(
        [sys.executable, "-m", "shared.data_files", str(received.path)], capture_output=True, check=False
    )
    try:
        found = json.loads(run.stdout)
    except ValueError:
        raise RuntimeError(f"reading an upload ended with {run.returncode}: {run.stderr[-500:]!r}") from None
    if "error" in found:
        error = found["error"]
        raise InvalidInput(
            error["message"], code=error["code"], field=error.get("field"), hint=error.get("hint")
        )
    return found["kind"], found["info"]
