"""What is in an uploaded file: csv columns and rows, npz arrays, archives of images, TFRecord examples, Keras models.

Needs neither NumPy nor TensorFlow, nor memory for the data. ``python -m shared.data_files FILE`` prints the same as
JSON, so that a service can have a large file read by a process of its own.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

from shared.data_files.csv_files import csv_header, inspect_csv
from shared.data_files.faults import invalid
from shared.data_files.image_archives import has_images, inspect_images
from shared.data_files.keras_files import (
    HDF5_MAGIC,
    MODEL_KINDS,
    SUFFIXES,
    hdf5_kind,
    inspect_hdf5,
    inspect_keras,
    is_keras,
)
from shared.data_files.npz_files import NPY_MAGIC, inspect_npz
from shared.data_files.tfrecords import inspect_tfrecord, is_tfrecord

Kind = Literal["csv", "npz", "images", "tfrecord", "keras", "h5", "weights"]
KINDS: tuple[Kind, ...] = ("csv", "npz", "images", "tfrecord", *MODEL_KINDS)
_GZIP_MAGIC = b"\x1f\x8b"
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"

__all__ = [
    "KINDS",
    "Kind",
    "csv_header",
    "inspect",
    "inspect_images",
    "inspect_npz",
    "inspect_tfrecord",
    "kind_of",
    "suffix_of",
]


def kind_of(path: Path) -> Kind:
    """By the content, whatever the name says.

    Raises:
        InvalidInput: the file is empty, or a format that jobs can't read.
    """
    with path.open("rb") as file:
        head = file.read(_TAR_MAGIC_AT + 5)
    if not head:
        raise invalid("The file is empty.")
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head.startswith(NPY_MAGIC):
        raise invalid(
            "This is a single .npy array.",
            "Put inputs and targets into one archive: numpy.savez('data.npz', x_train=..., y_train=...).",
        )
    if head.startswith(HDF5_MAGIC):
        return hdf5_kind(path)
    if is_tfrecord(head):
        return "tfrecord"
    if head[_TAR_MAGIC_AT:] == _TAR_MAGIC:
        return "images"
    if head.startswith(_GZIP_MAGIC):
        inside = _unzipped_head(path)
        if is_tfrecord(inside):
            return "tfrecord"
        if inside[_TAR_MAGIC_AT:] == _TAR_MAGIC:
            return "images"
    if head.startswith((b"BZh", b"\xfd7zXZ")) and tarfile.is_tarfile(path):
        return "images"
    if head.startswith((_GZIP_MAGIC, b"PAR1", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        raise invalid(
            "This is a compressed or binary file: neither csv text, an npz archive, a zip or tar archive of images, "
            "nor a TFRecord file.",
            "Unpack it, or convert it to one of these.",
        )
    return "csv"


def inspect(path: Path) -> tuple[Kind, dict[str, Any]]:
    """(kind, description) of a file.

    Raises:
        InvalidInput: with what is wrong and where.
    """
    kind = kind_of(path)
    readers = {
        "csv": inspect_csv,
        "npz": inspect_npz,
        "images": inspect_images,
        "tfrecord": inspect_tfrecord,
        "keras": inspect_keras,
        "h5": inspect_hdf5,
        "weights": inspect_hdf5,
    }
    return kind, readers[kind](path)


def suffix_of(kind: str) -> str:
    """What the name of a kept file of this kind ends in."""
    return SUFFIXES.get(kind, kind)


def _kind_of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if is_keras(names):
                return "keras"
            return "images" if has_images(names) else "npz"
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return "npz"  # whose reader says what is wrong


def _unzipped_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(_TAR_MAGIC_AT + 5)
    except (OSError, EOFError, zlib.error):
        return b""
