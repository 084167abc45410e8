"""NumPy ``.npz`` archives. Pickled objects are refused: reading one would run its code."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from services.worker.training.data import checks, decoded, placement
from services.worker.training.data.record import Array, RowArray, RowFile, Rows, Task, TrainingData
from services.worker.training.failures import data_invalid
from shared.specs import NpzDataset

# names of inputs and targets, and the arrays
_Part = tuple[str, str, RowArray, Array]


def load(
    spec: NpzDataset, path: Path, cache_dir: Path, *, fingerprint: str, loss: str | None
) -> TrainingData:
    """All rows of the archive, checked. Inputs that ``spec.cache`` does not want in memory stay on disk.

    Raises:
        TrainingFailed: data_invalid, naming the array.
    """
    try:
        # a file of our own, for np.load leaves one open when it is not an archive
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise data_invalid(
                    f"{path.name} is a single array, not an .npz archive with x_train and y_train"
                )
            with archive:
                x_name, y_name = _names(spec, archive.files)
                inputs = _Inputs(
                    archive, path, spec, cache_dir / "npz" / fingerprint.removeprefix("sha256:")[:32]
                )
                x, y = inputs.read(x_name), _array(archive, y_name)
                test = _test(spec, archive, inputs)
    except (zipfile.BadZipFile, ValueError, EOFError, zlib.error, OSError) as error:
        raise data_invalid(
            f"{path.name} can't be read as an .npz archive: {error}",
            "Write it with numpy.savez or numpy.savez_compressed.",
        ) from error
    return _checked(spec, (x_name, y_name, x, y), test, fingerprint=fingerprint, loss=loss)


def _names(spec: NpzDataset, files: list[str]) -> tuple[str, str]:
    if spec.x in files and spec.y in files:
        return spec.x, spec.y
    if (spec.x, spec.y) == ("x_train", "y_train") and {"x", "y"} <= set(files):
        return "x", "y"
    missing = [name for name in (spec.x, spec.y) if name not in files]
    raise data_invalid(
        f"the archive has no array {missing[0]!r}; it has {', '.join(sorted(files)) or 'none at all'}",
        "Name the arrays to use in dataset.x and dataset.y.",
    )


def _test(spec: NpzDataset, archive: np.lib.npyio.NpzFile, inputs: _Inputs) -> _Part | None:
    names = (spec.x_test, spec.y_test)
    if names[0] is None or names[1] is None:
        return None
    present = [name for name in names if name in archive.files]
    if not present:
        return None
    if len(present) == 1:
        raise data_invalid(f"the archive has {present[0]!r} but not its partner; both or neither are needed")
    return names[0], names[1], inputs.read(names[0]), _array(archive, names[1])


class _Inputs:
    """Reads the inputs of an archive: into memory, or as rows that stay on disk.

    ``numpy.savez`` stores arrays as they are, so that rows can be read where they lie in the archive. What is
    compressed is unpacked to a file of the cache first.
    """

    def __init__(self, archive: np.lib.npyio.NpzFile, path: Path, spec: NpzDataset, folder: Path) -> None:
        self._archive, self._path, self._spec, self._folder = archive, path, spec, folder

    def read(self, name: str) -> RowArray:
        """The array ``name``."""
        member = self._archive.zip.getinfo(f"{name}.npy") if self._archive.zip is not None else None
        if member is None or placement.kept_in_memory(self._spec.cache, member.file_size):
            return _array(self._archive, name)
        try:
            if member.compress_type == zipfile.ZIP_STORED:
                return RowFile.of_npy(self._path, begin=self._place(member))
            return RowFile.of_npy(self._unpacked(name, member))
        except ValueError:  # objects, which are refused, or an order that only NumPy's reader knows
            return _array(self._archive, name)

    def _place(self, member: zipfile.ZipInfo) -> int:
        """Where a stored member's bytes begin: behind its local header (APPNOTE.TXT 4.3.7)."""
        with self._path.open("rb") as file:
            file.seek(member.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
        return member.header_offset + 30 + int(name) + int(extra)

    def _unpacked(self, name: str, member: zipfile.ZipInfo) -> Path:
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        target = self._folder / f"{key}.npy"
        if not target.is_file():
            decoded.require_room(target, member.file_size)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                try:
                    with zipfile.ZipFile(self._path) as archive, archive.open(member) as source:
                        shutil.copyfileobj(source, file, 2**20)
                    os.replace(file.name, target)
                except BaseException:
                    os.unlink(file.name)
                    raise
        return target


def _array(archive: np.lib.npyio.NpzFile, name: str) -> Array:
    try:
        array = archive[name]
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise data_invalid(
                f"the array {name!r} holds pickled Python objects, which are never loaded: they can carry code",
                "Convert it to a plain numeric dtype before saving, for example array.astype('float32').",
            ) from None
        raise data_invalid(f"the array {name!r} can't be read: {error}") from error
    return np.asarray(array)


def _checked(
    spec: NpzDataset,
    train: _Part,
    test: _Part | None,
    *,
    fingerprint: str,
    loss: str | None,
) -> TrainingData:
    x_name, y_name, x_raw, y_raw = train
    x, kind = checks.inputs(x_name, x_raw)
    if y_raw.ndim == 0:
        raise data_invalid(f"the array {y_name!r} is a single value, not one target a row")
    checks.same_length(x_name, x, y_name, y_raw)
    task = checks.task_of(y_raw, loss)
    names = None
    if task == "classification" and y_raw.dtype.kind in "US":
        y_raw, test, names = _coded(y_name, y_raw, test)
    rows = Rows(x, _targets(y_name, y_raw, task))
    test_rows = None
    if test is not None:
        test_x, _ = checks.inputs(test[0], test[2])
        checks.same_shape(x_name, x, test[0], test_x)
        checks.same_length(test[0], test_x, test[1], test[3])
        test_rows = Rows(test_x, _targets(test[1], test[3], task))
        checks.same_shape(y_name, rows.y, test[1], test_rows.y)
    classes = None
    if task == "classification":
        count = 1 + max(int(part.y.max()) for part in (rows, test_rows) if part is not None)
        if y_raw.ndim == 2:
            count = max(count, y_raw.shape[1])
        classes = names or [str(index) for index in range(max(count, 2))]
    return TrainingData(
        train=rows,
        validation=None,
        test=test_rows,
        task=task,
        input_kind=kind,
        classes=classes,
        columns=None,
        fingerprint=fingerprint,
        source=f"npz {spec.npz}",
    )


def _coded(name: str, y: Array, test: _Part | None) -> tuple[Array, _Part | None, list[str]]:
    """Labels that are text, [N] or [N, 1], as numbers of the training rows' classes, in the order of their names.

    Raises:
        TrainingFailed: data_invalid, where the labels tell nothing apart, or the test rows have others.
    """
    known, codes = np.unique(_text(name, y), return_inverse=True)
    names = [str(item) for item in known]
    if len(names) == 1:
        raise data_invalid(
            f"all rows of {name!r} have the same label {names[0][:80]!r}: there is nothing to tell apart"
        )
    if test is not None:
        labels = _text(test[1], test[3])
        strange = np.flatnonzero(~np.isin(labels, known))
        if len(strange):
            raise data_invalid(
                f"the array {test[1]!r} holds the label {str(labels[strange[0]])[:80]!r} in row {int(strange[0])}, "
                f"which {name!r} never has"
            )
        test = (*test[:3], np.searchsorted(known, labels))
    return codes.reshape(-1), test, names


def _text(name: str, y: Array) -> Array:
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.dtype.kind not in "US":
        raise data_invalid(
            f"the array {name!r} has shape {list(y.shape)} and dtype {y.dtype}; text labels are one a row"
        )
    try:
        return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
    except UnicodeDecodeError:
        raise data_invalid(f"the array {name!r} holds labels that are not UTF-8 text") from None


def _targets(name: str, y: Array, task: Task) -> Array:
    return checks.class_labels(name, y) if task == "classification" else checks.number_targets(name, y)
