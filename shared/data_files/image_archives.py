"""What is in a zip or tar archive of images: folders with their counts, formats, sizes. Nothing is unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shared.data_files import thumbnails
from shared.data_files.faults import invalid

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
MAX_FILE_BYTES = 256 * 2**20
MAX_FILES = 5_000_000
MAX_FOLDERS = 1_000  # described
# What compresses more than this is no archive of images, which are compressed already.
MAX_RATIO, RATIO_SLACK_BYTES = 100, 2**30
EXAMINED = 200  # images whose header is read
SHOWN, SHOWN_OF_A_FOLDER = 8, 2  # images in the preview
_HEADER_BYTES = 256 * 1024


def has_images(names: Iterable[str]) -> bool:
    """Whether a file of an archive is an image by its name."""
    return any(name.lower().endswith(SUFFIXES) for name in names)


def inspect_images(path: Path) -> dict[str, Any]:
    """``{"images", "other_files", "folders": {folder: images}, "formats", "sizes", "preview"}`` of an archive.

    ``sizes`` (null without Pillow) has least, largest and mean ``width`` and ``height`` of the first 200 images, and
    how many ``examined`` and ``broken`` there were. ``preview`` has a few images of different folders: name, width,
    height and a ``thumbnail`` (see ``thumbnails``; null for one that can't be decoded, or is too large to be).

    Raises:
        InvalidInput: it is broken, encrypted, holds what can't be, or no images.
    """
    try:
        return _summary(_zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path))
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        raise invalid(f"The archive is broken or cut short: {error}.", "Pack and upload it again.") from None


class _Member(NamedTuple):
    """A file: ``head`` has its first bytes, or all of them if it is to be ``shown``; None if it was not read."""

    name: str
    size: int
    head: bytes | None
    shown: bool


class _Reading:
    """How much of each file is read: of the first images what tells their size, a few whole to be shown."""

    def __init__(self) -> None:
        self._examined = self._shown = 0
        self._of_folder: Counter[str] = Counter()

    def member(self, name: str, size: int, read: Callable[[int], bytes]) -> _Member:
        """``read(n)`` gives its first ``n`` bytes."""
        if not name.lower().endswith(SUFFIXES):
            return _Member(name, size, None, shown=False)
        folder = name.rpartition("/")[0]
        shown = (
            self._shown < SHOWN
            and self._of_folder[folder] < SHOWN_OF_A_FOLDER
            and size <= thumbnails.MAX_BYTES
        )
        if shown:
            self._shown += 1
            self._of_folder[folder] += 1
            return _Member(name, size, read(size), shown=True)
        if self._examined < EXAMINED:
            self._examined += 1
            return _Member(name, size, read(_HEADER_BYTES), shown=False)
        return _Member(name, size, None, shown=False)


def _summary(members: Iterator[_Member]) -> dict[str, Any]:
    folders: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    preview: list[dict[str, Any]] = []
    others = examined = 0
    for name, size, head, is_shown in members:
        if not name.lower().endswith(SUFFIXES):
            others += 1
            continue
        if size > MAX_FILE_BYTES:
            raise invalid(f"The image {name[:200]!r} is {size} bytes long; the limit is {MAX_FILE_BYTES}.")
        folder, _, base = name.rpartition("/")
        folders[folder] += 1
        formats["." + base.rsplit(".", 1)[-1].lower()] += 1
        if head is not None:
            examined += 1
            found = thumbnails.size_of(head)
            if found is not None:
                sizes.append(found)
                if is_shown:
                    image = {"name": name, "width": found[0], "height": found[1]}
                    preview.append({**image, "thumbnail": thumbnails.thumbnail_of(head)})
    if not folders:
        raise invalid(
            "The archive has no images.",
            f"Images end in {', '.join(SUFFIXES)}. Links, hidden files, and names that lead out of the archive "
            "('/...', '../...') are left out.",
        )
    shown = dict(sorted(folders.items())[:MAX_FOLDERS])
    return {
        "images": folders.total(),
        "other_files": others,
        "folders": shown,
        "folders_left_out": len(folders) - len(shown),
        "formats": dict(formats),
        "sizes": _sizes(sizes, examined),
        "preview": preview,
    }


def _sizes(found: list[tuple[int, int]], examined: int) -> dict[str, Any] | None:
    if not found:
        return None
    shown: dict[str, Any] = {"examined": examined, "broken": examined - len(found)}
    for key, values in (("width", [item[0] for item in found]), ("height", [item[1] for item in found])):
        shown[key] = {"min": min(values), "max": max(values), "mean": round(sum(values) / len(values), 1)}
    return shown


def _zip_members(path: Path) -> Iterator[_Member]:
    reading = _Reading()
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_FILES:
            raise invalid(f"The archive has {len(members)} files; the limit is {MAX_FILES}.")
        _check_ratio(sum(member.file_size for member in members), path)
        for member in members:
            if member.is_dir() or _is_odd(member.filename):
                continue
            if member.flag_bits & 1:
                raise invalid("The archive is encrypted.", "Pack it without a password.")

            def read(count: int, member: zipfile.ZipInfo = member) -> bytes:
                with archive.open(member) as file:
                    return file.read(count)

            yield reading.member(member.filename, member.file_size, read)


def _tar_members(path: Path) -> Iterator[_Member]:
    reading = _Reading()
    total = count = 0
    with tarfile.open(path, "r|*") as archive:  # a stream: one reading, and no list of members
        for member in archive:
            count += 1
            total += member.size
            _check_ratio(total, path)
            if count > MAX_FILES:
                raise invalid(f"The archive has more than {MAX_FILES} files.")
            if not member.isfile() or _is_odd(member.name):
                continue

            def read(size: int, member: tarfile.TarInfo = member) -> bytes:
                file = archive.extractfile(member)
                head = file.read(size) if file is not None else b""
                if len(head) < min(member.size, size):
                    raise EOFError("unexpected end of data")
                return head

            yield reading.member(member.name, member.size, read)


def _check_ratio(unpacked: int, path: Path) -> None:
    if unpacked > MAX_RATIO * path.stat().st_size + RATIO_SLACK_BYTES:
        raise invalid(
            f"The archive claims to hold {unpacked / 2**30:.0f} GiB, far more than its size allows.",
            "Images hardly compress; pack them without padding.",
        )


def _is_odd(name: str) -> bool:
    """Names that lead out of a folder, and what macOS adds: training leaves them out too."""
    parts = name.split("/")
    return name.startswith("/") or ".." in parts or "__MACOSX" in parts or parts[-1].startswith(".")
