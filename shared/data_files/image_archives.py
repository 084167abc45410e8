"""What is in a zip or tar archive of images: folders with their counts, formats, sizes. Nothing is unpacked to disk."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shared.data_files.faults import invalid

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
MAX_FILE_BYTES = 256 * 2**20
MAX_FILES = 5_000_000
MAX_FOLDERS = 1_000  # described
# What compresses more than this is no archive of images, which are compressed already.
MAX_RATIO, RATIO_SLACK_BYTES = 100, 2**30
EXAMINED = 200  # images whose header is read
_HEADER_BYTES = 256 * 1024


def has_images(names: Iterable[str]) -> bool:
    """Whether a file of an archive is an image by its name."""
    return any(name.lower().endswith(SUFFIXES) for name in names)


def inspect_images(path: Path) -> dict[str, Any]:
    """``{"images", "other_files", "folders": {folder: images}, "formats", "sizes", "preview"}`` of an archive.

    ``sizes`` (null without Pillow) has least, largest and mean ``width`` and ``height`` of the first 200 images, and
    how many ``examined`` and ``broken`` there were.

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


def _summary(members: Iterator[tuple[str, int, bytes | None]]) -> dict[str, Any]:
    folders: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    sizes: list[tuple[str, int, int]] = []
    others = examined = 0
    for name, size, head in members:
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
            found = _size_of(head)
            if found is not None:
                sizes.append((name, *found))
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
        "preview": [{"name": name, "width": width, "height": height} for name, width, height in sizes[:5]],
    }


def _sizes(found: list[tuple[str, int, int]], examined: int) -> dict[str, Any] | None:
    if not found:
        return None
    shown: dict[str, Any] = {"examined": examined, "broken": examined - len(found)}
    for key, values in (("width", [item[1] for item in found]), ("height", [item[2] for item in found])):
        shown[key] = {"min": min(values), "max": max(values), "mean": round(sum(values) / len(values), 1)}
    return shown


def _size_of(head: bytes) -> tuple[int, int] | None:
    """(width, height), from the first bytes of a file; None if they tell none."""
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(head)) as image:
            return image.size
    except Exception:  # Pillow's readers of broken headers raise whatever they come upon
        return None


def _zip_members(path: Path) -> Iterator[tuple[str, int, bytes | None]]:
    """(name, size, first bytes of the first images) of each file."""
    read = 0
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_FILES:
            raise invalid(f"The archive has {len(members)} files; the limit is {MAX_FILES}.")
        _check_ratio(sum(member.file_size for member in members), path)
        for member in members:
            if member.is_dir() or _is_odd(member.filename):
                continue
            head = None
            if member.flag_bits & 1:
                raise invalid("The archive is encrypted.", "Pack it without a password.")
            if read < EXAMINED and member.filename.lower().endswith(SUFFIXES):
                read += 1
                with archive.open(member) as file:
                    head = file.read(_HEADER_BYTES)
            yield member.filename, member.file_size, head


def _tar_members(path: Path) -> Iterator[tuple[str, int, bytes | None]]:
    read = total = count = 0
    with tarfile.open(path, "r|*") as archive:  # a stream: one reading, and no list of members
        for member in archive:
            count += 1
            total += member.size
            _check_ratio(total, path)
            if count > MAX_FILES:
                raise invalid(f"The archive has more than {MAX_FILES} files.")
            if not member.isfile() or _is_odd(member.name):
                continue
            head = None
            if read < EXAMINED and member.name.lower().endswith(SUFFIXES):
                read += 1
                file = archive.extractfile(member)
                head = file.read(_HEADER_BYTES) if file is not None else b""
                if len(head) < min(member.size, _HEADER_BYTES):
                    raise EOFError("unexpected end of data")
            yield member.name, member.size, head


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
