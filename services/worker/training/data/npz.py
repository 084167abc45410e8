"""NumPy ``.npz`` archives. Pickled objects are refused: reading one would run its code."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from services.worker.training.data import checks
from services.worker.training.data.record import Array, Rows, Task, TrainingData
from services.worker.training.failures import data_invalid
from shared.specs import NpzDataset


def load(spec: NpzDataset, path: Path, *, fingerprint: str, loss: str | None) -> TrainingData:
    """All rows of the archive, checked.

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
                x, y = _array(archive, x_name), _array(archive, y_name)
                test = _test(spec, archive)
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


def _test(spec: NpzDataset, archive: np.lib.npyio.NpzFile) -> tuple[str, str, Array, Array] | None:
    names = (spec.x_test, spec.y_test)
    if names[0] is None or names[1] is None:
        return None
    present = [name for name in names if name in archive.files]
    if not present:
        return None
    if len(present) == 1:
        raise data_invalid(f"the archive has {present[0]!r} but not its partner; both or neither are needed")
    return names[0], names[1], _array(archive, names[0]), _array(archive, names[1])


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
    train: tuple[str, str, Array, Array],
    test: tuple[str, str, Array, Array] | None,
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
        classes = [str(index) for index in range(max(count, 2))]
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


def _targets(name: str, y: Array, task: Task) -> Array:
    return checks.class_labels(name, y) if task == "classification" else checks.number_targets(name, y)
