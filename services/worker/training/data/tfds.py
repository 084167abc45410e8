"""Datasets of tensorflow_datasets: prepared once by the genuine builder, decoded once into arrays.

A second job finds the arrays and never imports tensorflow_datasets at all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.worker.training.data import checks, decoded
from services.worker.training.data.record import Array, InputKind, Rows, TrainingData
from services.worker.training.failures import TrainingFailed, data_invalid
from shared.specs import TfdsDataset

if TYPE_CHECKING:
    from services.worker.training.emitter import Emitter

MAX_BYTES = 4 * 2**30  # decoded, per split; more does not fit beside the model on an ordinary machine
_ROWS_PER_READ = 1024


def load(
    spec: TfdsDataset, tfds_dir: Path, cache_dir: Path, *, emit: Emitter, loss: str | None
) -> TrainingData:
    """Train and test split as arrays.

    Raises:
        TrainingFailed: data_invalid or data_unreachable.
    """
    opened = _Opened(spec.tfds, tfds_dir, emit)
    train, notes = _split(spec.tfds, spec.train_split, cache_dir, opened)
    test = _split(spec.tfds, spec.test_split, cache_dir, opened)[0] if spec.test_split else None
    task = (
        "regression"
        if notes["task"] == "regression" or loss in checks.REGRESSION_LOSSES
        else "classification"
    )
    kind: InputKind = notes["input_kind"]
    rows, test_rows = _rows(train, task), _rows(test, task) if test is not None else None
    if test_rows is not None:
        checks.same_shape(spec.train_split, rows.x, str(spec.test_split), test_rows.x)
    return TrainingData(
        train=rows,
        validation=None,
        test=test_rows,
        task="regression" if task == "regression" else "classification",
        input_kind=kind,
        classes=notes["classes"] if task == "classification" else None,
        columns=None,
        fingerprint=notes["fingerprint"],
        source=f"tfds {notes['name']}",
    )


def _rows(arrays: dict[str, Array], task: str) -> Rows:
    y = arrays["y"]
    return Rows(arrays["x"], y if task == "classification" else y.astype(np.float32))


class _Opened:
    """The builder, made and prepared at the first need only."""

    def __init__(self, name: str, tfds_dir: Path, emit: Emitter) -> None:
        self._name, self._dir, self._emit = name, tfds_dir, emit
        self._builder: Any = None

    def builder(self) -> Any:
        if self._builder is None:
            from services.worker.training.data import download

            self._builder = download.prepared_builder(self._name, self._dir, self._emit)
        return self._builder


def _split(
    name: str, split: str, cache_dir: Path, opened: _Opened
) -> tuple[dict[str, Array], dict[str, Any]]:
    folder = cache_dir / "tfds" / cache_key(name, split)
    found = decoded.read(folder)
    if found is None:
        arrays, notes = _decode(opened.builder(), split)
        decoded.write(folder, arrays, notes)
        # what could not be kept (say, the cache folder is a file system that refuses) is still good for this job
        found = decoded.read(folder) or (arrays, notes)
    return found


def cache_key(name: str, split: str) -> str:
    """A folder name for a dataset as asked for. The package's version decides which version ``name`` means."""
    version = importlib.metadata.version("tensorflow-datasets")
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{name}-{split}")[:80]
    digest = hashlib.sha256(f"{name}\0{split}\0{version}".encode()).hexdigest()[:12]
    return f"{readable}-{digest}"


def _decode(builder: Any, split: str) -> tuple[dict[str, Array], dict[str, Any]]:
    x_name, y_name = _keys(builder)
    try:
        # keep the order on disk: the seed alone decides the order of training
        dataset = builder.as_dataset(split=split, shuffle_files=False)
        count = int(builder.info.splits[split].num_examples)
    except (ValueError, KeyError) as error:
        known = ", ".join(sorted(builder.info.splits))
        raise data_invalid(
            f"{builder.info.name} has no split {split!r}; its splits are {known}",
            "Name splits in dataset.train_split and dataset.test_split; null for no test split.",
        ) from error
    if not count:
        raise data_invalid(f"the split {split!r} of {builder.info.name} has no rows")
    dataset = dataset.map(lambda row: {"x": row[x_name], "y": row[y_name]})
    kind = _check_elements(builder, dataset.element_spec, count)
    y_feature = builder.info.features[y_name]
    arrays = _read_all(dataset, count)
    names = getattr(y_feature, "names", None)
    whole = arrays["y"].dtype.kind in "biu"
    classes = names or ([str(i) for i in range(int(arrays["y"].max()) + 1)] if whole else None)
    arrays["x"] = arrays["x"] if arrays["x"].dtype == np.uint8 else arrays["x"].astype(np.float32)
    arrays["y"] = arrays["y"].astype(np.int32 if whole else np.float32)
    return arrays, {
        "name": builder.info.full_name,
        "split": split,
        "task": "classification" if whole else "regression",
        "input_kind": kind,
        "classes": classes,
        "fingerprint": f"sha256:{_digest(arrays)}",
    }


def _keys(builder: Any) -> tuple[str, str]:
    keys = builder.info.supervised_keys
    if keys is None or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise data_invalid(
            f"{builder.info.name} does not say which of its features is the input and which the label",
            "Use a dataset with supervised keys, or write the arrays you want to an .npz file.",
        )
    return keys[0], keys[1]


def _check_elements(builder: Any, element: dict[str, Any], count: int) -> InputKind:
    x, y = element["x"], element["y"]
    for what, part in (("inputs", x), ("labels", y)):
        if not hasattr(part, "shape") or part.dtype.name == "string":
            raise data_invalid(
                f"the {what} of {builder.info.name} are not arrays of numbers: {part}",
                "Text, sequences and nested features are not supported; write arrays to an .npz file.",
            )
    if not x.shape.is_fully_defined():
        raise data_invalid(
            f"the inputs of {builder.info.name} have no single shape: {list(x.shape)}",
            "Images of varying size are not supported yet; resize them and write an .npz file.",
        )
    if y.shape.rank:
        raise data_invalid(
            f"the labels of {builder.info.name} have shape {list(y.shape)}; one number a row is needed"
        )
    size = count * int(np.prod(x.shape)) * (1 if x.dtype.name == "uint8" else 4)
    if size > MAX_BYTES:
        raise data_invalid(
            f"{builder.info.name} is {size / 2**30:.1f} GiB decoded; at most {MAX_BYTES / 2**30:.0f} GiB is supported",
            "Use part of it, for example dataset.train_split = 'train[:10%]'.",
        )
    if x.shape.rank == 3 and x.shape[-1] in {1, 3, 4}:
        return "image"
    return "tabular" if x.shape.rank == 1 else "tensor"


def _read_all(dataset: Any, count: int) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    done = 0
    for batch in dataset.batch(_ROWS_PER_READ).prefetch(4).as_numpy_iterator():
        for key, part in batch.items():
            if key not in arrays:
                arrays[key] = np.empty((count, *part.shape[1:]), part.dtype)
            arrays[key][done : done + len(part)] = part
        done += len(batch["x"])
    if done != count:
        raise TrainingFailed(
            "data_invalid", f"expected {count} rows but read {done}", "Delete the prepared dataset."
        )
    return arrays


def _digest(arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
