"""Keras' own files, told apart and described without Keras or h5py; nothing in them is run or built here."""

from __future__ import annotations

import json
import mmap
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from shared.data_files.faults import invalid

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ModelKind = Literal["keras", "h5", "weights"]
MODEL_KINDS: tuple[ModelKind, ...] = ("keras", "h5", "weights")
SUFFIXES = {"keras": "keras", "h5": "h5", "weights": "weights.h5"}  # Keras goes by them
_MEMBERS = frozenset({"config.json", "metadata.json", "model.weights.h5"})
_MAX_CONFIG_BYTES = 64 * 2**20
# the attribute of the root that holds the architecture; a file without it has weights alone
_ARCHITECTURE = b"model_config"


def is_keras(names: Iterable[str]) -> bool:
    """Whether a zip archive with these members is a ``.keras`` file."""
    return frozenset(names) >= _MEMBERS


def hdf5_kind(path: Path) -> ModelKind:
    """Whether an HDF5 file has a whole model or weights alone."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return "h5" if data.find(_ARCHITECTURE) >= 0 else "weights"


def inspect_keras(path: Path) -> dict[str, Any]:
    """Name, class, layers, and the Keras that wrote it.

    Raises:
        InvalidInput: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("config.json", "metadata.json"):
                if archive.getinfo(name).file_size > _MAX_CONFIG_BYTES:
                    raise invalid(f"The model's {name} is larger than 64 MiB.")
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json"))
            inner = config["config"]
            return {
                "name": str(inner.get("name", "")),
                "class": str(config["class_name"]),
                "layers": len(inner.get("layers", [])),
                "keras_version": str(metadata.get("keras_version", "")),
            }
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        RecursionError,
    ) as error:
        raise invalid(
            f"This .keras file is damaged: {error}.", "Save it again with model.save('model.keras')."
        ) from None


def inspect_hdf5(path: Path) -> dict[str, Any]:
    """What it holds."""
    return {"holds": "a model" if hdf5_kind(path) == "h5" else "weights"}
