"""The files of a run or a version: listed, found by a safe path, and streamed as one archive without a copy of it.

Only regular files below the folder are there: no links, and nothing whose name begins with a dot (what is being
written). Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.errors import InvalidInput, NotFound

ArchiveKind = Literal["zip", "tar.gz"]
CHUNK = 1 << 20
_KNOWN_HASHES = 20_000
LISTED_BYTES = 2**30  # hashed for one page of a list; the next request goes on with the rest
HASHED_ETAG_BYTES = 64 * 2**20  # a larger file is sent at once, not read twice
_FORMATS = (
    (".weights.h5", "weights"),
    (".keras", "keras"),
    (".h5", "h5"),
    (".tflite", "tflite"),
    (".onnx", "onnx"),
    (".npz", "npz"),
    (".json", "json"),
    (".csv", "csv"),
    (".log", "log"),
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file; ``name`` is its path relative to the folder, with slashes."""

    name: str
    path: Path
    format: str
    size_bytes: int
    created_at: float


def folder_of(base: Path, relative: str) -> Path | None:
    """The folder ``relative`` to ``base``; None if it is not there.

    A job may have put a link in its place, and the API may read what the job may not: its own secrets, for one.
    """
    path = base.resolve() / relative
    try:
        return path if path.resolve() == path and path.is_dir() else None
    except (OSError, RuntimeError):  # a loop of links
        return None


def files_of(root: Path, below: str = "") -> list[Artifact]:
    """All files of ``root`` in the order of their names, or those in its folder ``below``, or that one file.

    Raises:
        NotFound: there is no such folder or file.
    """
    if below:
        path = _inside(root, below)
        if path.is_file():
            return [_artifact(root, path, path.stat())]
        start = path
    else:
        start = root
    found = []
    for folder, folders, names in os.walk(start, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            try:
                found.append(_artifact(root, path, path.stat()))
            except FileNotFoundError:  # a checkpoint that has just been replaced by a newer one
                continue
    if below and not found:
        raise _no_file(below)
    return sorted(found, key=lambda item: item.name)


def find(root: Path, name: str) -> Artifact:
    """One file by its name.

    Raises:
        NotFound: no such file, or none that may be had.
    """
    path = _inside(root, name)
    if not path.is_file():
        raise _no_file(name)
    return _artifact(root, path, path.stat())


def _inside(root: Path, name: str) -> Path:
    parts = name.strip("/").split("/")
    if "\0" in name or "\\" in name or any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        raise _no_file(name)
    path = root.joinpath(*parts)
    try:
        # equal only if no part of it is a link
        if path.resolve() != root.resolve().joinpath(*parts) or not path.exists():
            raise _no_file(name)
    except (OSError, RuntimeError, ValueError):  # too long a name, a loop of links
        raise _no_file(name) from None
    return path


def _no_file(name: str) -> NotFound:
    return NotFound(
        f"There is no file {name[:200]!r}.",
        code="artifact_not_found",
        hint="GET the list of artifacts to see what is there; older checkpoints are removed as newer ones come.",
    )


def _artifact(root: Path, path: Path, status: os.stat_result) -> Artifact:
    name = path.relative_to(root).as_posix()
    return Artifact(name, path, _format(root, path), status.st_size, status.st_mtime)


def _format(root: Path, path: Path) -> str:
    if ".tfevents." in path.name:
        return "tensorboard"
    for folder in path.parents:
        if (folder / "saved_model.pb").is_file():
            in_it = path.relative_to(folder).parts[0]
            if path.parent == folder or in_it in ("variables", "assets"):
                return "saved_model"
        if folder == root:
            break
    return next((kind for suffix, kind in _FORMATS if path.name.endswith(suffix)), "file")


class Hashes:
    """SHA-256 of files, each read once as long as it does not change. Thread-safe."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()
        self._lock = threading.Lock()

    def page(
        self, files: list[Artifact], budget: int = LISTED_BYTES
    ) -> Iterator[tuple[Artifact, str | None]]:
        """Each file that is still there with its digest; None once ``budget`` bytes of others have been read."""
        for item in files:
            try:
                digest = self.known(item.path)
                if digest is None and budget > 0:
                    digest = self.of(item.path)
                    budget -= item.size_bytes
            except FileNotFoundError:  # replaced since it was listed
                continue
            yield item, digest

    def known(self, path: Path) -> str | None:
        """Hex digest if the file was read before and has not changed since.

        Raises:
            FileNotFoundError: it is gone.
        """
        with self._lock:
            return self._known.get(_key(path))

    def etag(self, item: Artifact) -> str:
        """A strong ETag, always the same one for a file that has not changed."""
        if item.size_bytes <= HASHED_ETAG_BYTES:
            return f'"{self.of(item.path)}"'
        return '"' + "-".join(f"{part:x}" for part in _key(item.path)[1:]) + '"'

    def of(self, path: Path) -> str:
        """Hex digest.

        Raises:
            FileNotFoundError: it is gone.
        """
        key = _key(path)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            self._known[key] = digest
            while len(self._known) > _KNOWN_HASHES:
                self._known.popitem(last=False)
        return digest


def _key(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def archive(files: list[Artifact], kind: ArchiveKind, top: str) -> Iterator[bytes]:
    """The bytes of an archive that holds ``files`` in a folder ``top``, piece by piece.

    Raises:
        InvalidInput: there is no file.
    """
    if not files:
        raise InvalidInput("There is no file to put into an archive.", code="artifacts_empty", field="path")
    return _zip(files, top) if kind == "zip" else _tar(files, top)


class _Sink(io.RawIOBase):
    """Where an archive is written; what came in is taken out at once."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(memoryview(data))  # type: ignore[arg-type]
        self._parts.append(piece)
        return len(piece)

    def take(self) -> bytes:
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def _zip(files: list[Artifact], top: str) -> Iterator[bytes]:
    sink = _Sink()
    # stored: weights are noise to a compressor; a sink that can't be sought makes zipfile write sizes behind the data
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as writer:
        for item in files:
            moment = time.gmtime(max(item.created_at, 315_619_200))[:6]  # zip begins in 1980
            info = zipfile.ZipInfo(f"{top}/{item.name}", moment)
            info.external_attr = 0o644 << 16
            with item.path.open("rb") as source, writer.open(info, "w", force_zip64=True) as target:
                while piece := source.read(CHUNK):
                    target.write(piece)
                    yield sink.take()
            yield sink.take()
    yield sink.take()


def _tar(files: list[Artifact], top: str) -> Iterator[bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)  # 31: a gzip header
    for item in files:
        with item.path.open("rb") as source:
            info = tarfile.TarInfo(f"{top}/{item.name}")
            info.size, info.mtime, info.mode = os.fstat(source.fileno()).st_size, int(item.created_at), 0o644
            yield packer.compress(info.tobuf(tarfile.PAX_FORMAT))
            left = info.size
            while left:
                piece = source.read(min(CHUNK, left))
                if not piece:  # it was cut short meanwhile; the header has promised its size
                    piece = bytes(min(CHUNK, left))
                left -= len(piece)
                yield packer.compress(piece)
            yield packer.compress(bytes(-info.size % tarfile.BLOCKSIZE))
    yield packer.compress(bytes(2 * tarfile.BLOCKSIZE))
    yield packer.flush()
