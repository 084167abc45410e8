"""The files of a folder or an archive of images. Nothing is ever unpacked to disk: members are read where they lie.

So no name in an archive becomes a path, links lead nowhere, and what a member claims to be is bounded before it is
read. No TensorFlow here.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from services.worker.training.failures import data_invalid

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
MAX_FILE_BYTES = 256 * 2**20
MAX_FILES = 20_000_000


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: its name below the top, with ``/``, and what tells it from another of that name."""

    name: str
    size: int
    stamp: int
    place: Any  # what the source needs to read it


class Source(Protocol):
    """Where images come from."""

    def files(self) -> Iterator[ImageFile]:
        """All images, in an order that is the same each time."""

    def read(self, file: ImageFile) -> bytes:
        """The bytes of one. Called in the order of ``files``, by one thread."""


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The images at ``path``, a folder, zip or tar file (plain, gzip, bzip2, xz).

    Raises:
        TrainingFailed: data_invalid, if it is none of these or is broken.
    """
    try:
        if path.is_dir():
            yield _Folder(path)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _Zip(archive)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                yield _Tar(tar)
        else:
            raise data_invalid(
                f"{path.name} is neither a folder nor a zip or tar archive",
                "Pack the folder with its sub-folders: zip -r images.zip FOLDER.",
            )
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise data_invalid(
            f"the archive {path.name} is broken or cut short: {error}", "Pack and upload it again."
        ) from error


def digest(files: list[ImageFile]) -> str:
    """SHA-256 over names, sizes and dates: changes when a file does, without reading it."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.name}\0{file.size}\0{file.stamp}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> Iterator[ImageFile]:
        yield from self._below(self._root, "")

    def _below(self, folder: Path, prefix: str) -> Iterator[ImageFile]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise data_invalid(
                f"the folder {prefix or folder.name} can't be read: {error.strerror}"
            ) from error
        for entry in entries:
            if entry.name.startswith(".") or entry.is_symlink():  # links may lead out of what is allowed
                continue
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(Path(entry.path), f"{name}/")
            elif _is_image(name) and entry.is_file(follow_symlinks=False):
                facts = entry.stat(follow_symlinks=False)
                yield ImageFile(name, facts.st_size, facts.st_mtime_ns, entry.path)

    def read(self, file: ImageFile) -> bytes:
        # the file may have become a link since it was found
        descriptor = os.open(file.place, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as opened_file:
            return opened_file.read(MAX_FILE_BYTES + 1)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def files(self) -> Iterator[ImageFile]:
        for member in sorted(self._archive.infolist(), key=lambda member: member.filename):
            if not member.is_dir() and _is_safe(member.filename) and _is_image(member.filename):
                yield ImageFile(_plain(member.filename), member.file_size, member.CRC, member)

    def read(self, file: ImageFile) -> bytes:
        with self._archive.open(file.place) as member:
            return member.read(MAX_FILE_BYTES + 1)


class _Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def files(self) -> Iterator[ImageFile]:
        # in the archive's own order: going back in a compressed one means unpacking it from the start
        for member in self._archive.getmembers():
            if member.isfile() and _is_safe(member.name) and _is_image(member.name):
                yield ImageFile(_plain(member.name), member.size, member.offset_data, member)

    def read(self, file: ImageFile) -> bytes:
        member = self._archive.extractfile(file.place)
        if member is None:
            raise data_invalid(f"the archive's member {file.name!r} is not a file")
        with member:
            return member.read(MAX_FILE_BYTES + 1)


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    return not name.startswith("/") and ".." not in parts and "\\" not in name and "__MACOSX" not in parts


def _is_image(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")
