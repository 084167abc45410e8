"""Data that the user's ``make_dataset`` makes, kept once as arrays on disk: order and resume are then exact.

What it may return, each split being a ``tf.data.Dataset`` of (x, y) or (x, y, w), batched or not, or a tuple of arrays:

    train                         one split
    (train, validation)           and (train, validation, test); None leaves one out
    {"train": ..., "validation": ..., "test": ...}
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from services.worker.training.data import checks, decoded
from services.worker.training.data.record import Array, Rows, TrainingData
from services.worker.training.emitter import Emitter
from services.worker.training.failures import TrainingFailed, data_invalid
from services.worker.training.user_code import Code, guarded
from shared.specs import UserDataset

SPLITS = ("train", "validation", "test")
MIN_FREE_BYTES = 2**30  # an endless generator must not take the last of the disk
_CHUNK_ROWS = 1024
_LOOK_EVERY_BYTES = 256 * 2**20


def load(spec: UserDataset, code: Code, folder: Path, *, emit: Emitter, loss: str | None) -> TrainingData:
    """Call the user's function and keep what it gives in ``folder``.

    Raises:
        TrainingFailed: user_code, data_invalid, disk_full.
    """
    made = code.call(spec.builder, "make_dataset", spec.params)
    what = f"make_dataset of {spec.builder}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt, which may not have got to its end
    arrays: dict[str, dict[str, Array]] = {}
    prints: dict[str, str] = {}
    for name, split in _splits(made, what).items():
        with guarded(what):
            arrays[name], prints[name] = _Kept(folder / name, name, spec, what).keep(split)
    emit.note(made_rows={name: len(parts["x"]) for name, parts in arrays.items()})
    return _checked(spec, arrays, decoded.fingerprint_of(**prints), loss)


def _splits(made: Any, what: str) -> dict[str, Any]:
    if isinstance(made, dict):
        unknown = [key for key in made if key not in SPLITS]
        if unknown or "train" not in made:
            raise _wrong(what, f"a dict with the keys {sorted(map(str, made))}")
        return {name: made[name] for name in SPLITS if made.get(name) is not None}
    if isinstance(made, tf.data.Dataset) or _is_arrays(made):
        return {"train": made}
    if isinstance(made, tuple | list) and 1 <= len(made) <= len(SPLITS):
        given = dict(zip(SPLITS, made, strict=False))
        if given["train"] is not None and all(
            part is None or isinstance(part, tf.data.Dataset) or _is_arrays(part) for part in given.values()
        ):
            return {name: part for name, part in given.items() if part is not None}
    raise _wrong(what, "nothing (None)" if made is None else f"a {type(made).__name__}")


def _is_arrays(value: Any) -> bool:
    """(x, y) or (x, y, w): arrays, tensors, or lists of numbers."""
    if not isinstance(value, tuple) or len(value) not in {2, 3}:
        return False
    return all(
        hasattr(part, "shape") or (isinstance(part, list) and part and not isinstance(part[0], tuple))
        for part in value
    )


def _wrong(what: str, got: str) -> TrainingFailed:
    return TrainingFailed(
        "user_code",
        f"{what} returned {got}",
        "Return a tf.data.Dataset of (x, y), or arrays (x, y); or a tuple (train, validation, test) of such, or a dict "
        "with these keys.",
    )


class _Kept:
    """Writes one split's elements to files: x, y and, if there are, weights w."""

    def __init__(self, folder: Path, name: str, spec: UserDataset, what: str) -> None:
        self._folder, self._name, self._spec, self._what = folder, name, spec, what
        self._first: dict[str, Array] | None = None  # no rows of it: only dtypes and shapes
        self._bytes = 0

    def keep(self, split: Any) -> tuple[dict[str, Array], str]:
        """The arrays, memory-mapped, and their fingerprint."""
        limit = self._spec.rows
        with decoded.Writer(self._folder) as writer:
            for parts in self._pieces(split):
                room = None if limit is None else limit - writer.rows
                writer.append(**self._alike(parts, room, writer))
                if limit is not None and writer.rows >= limit:
                    break
            if not writer.rows:
                raise data_invalid(f"{self._what} gave no rows for {self._name}")
            writer.finish({})
        arrays, notes = decoded.must_read(self._folder)
        return arrays, notes["fingerprint"]

    def _pieces(self, split: Any) -> Iterator[list[Array]]:
        if isinstance(split, tf.data.Dataset):
            yield from self._of_dataset(split)
            return
        arrays = [np.asarray(part) for part in split]
        if any(array.ndim == 0 or len(array) != len(arrays[0]) for array in arrays):
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            raise data_invalid(f"{self._what} gave arrays for {self._name} whose rows differ: {shapes}")
        for start in range(0, len(arrays[0]), _CHUNK_ROWS):
            yield [array[start : start + _CHUNK_ROWS] for array in arrays]

    def _of_dataset(self, split: tf.data.Dataset) -> Iterator[list[Array]]:
        if self._spec.rows is None and split.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise data_invalid(
                f"{self._what} gave an endless dataset for {self._name}",
                "Leave .repeat() out (epochs are the job's), or bound it with dataset.rows.",
            )
        batched = self._is_batched(split.element_spec)
        source = split if batched else split.batch(_CHUNK_ROWS)
        for element in source.prefetch(2):
            yield [np.asarray(part) for part in element]

    def _is_batched(self, spec: Any) -> bool:
        parts = spec if isinstance(spec, tuple) else (spec,)
        if len(parts) not in {2, 3} or not all(isinstance(part, tf.TensorSpec) for part in parts):
            raise data_invalid(
                f"{self._what} gave elements of another form than (x, y) or (x, y, w): {spec!s:.300}",
                "One tensor each for inputs, targets and weights; dense, not ragged or a dict.",
            )
        if self._spec.batched is not None:
            return self._spec.batched
        shapes = [part.shape for part in parts]
        if any(shape.rank is None for shape in shapes):
            raise self._unclear()
        if any(shape.rank == 0 for shape in shapes):
            return False
        first = [shape[0] for shape in shapes]
        if all(size is None for size in first):
            return True
        if len(set(first)) == 1:
            raise self._unclear()  # a row [10] with a target [10], or a batch of 10
        return False

    def _unclear(self) -> TrainingFailed:
        return data_invalid(
            f"whether an element of {self._what} is a row or a batch can't be told from its shapes",
            "Say so with dataset.batched: true or false.",
        )

    def _alike(self, parts: list[Array], room: int | None, writer: decoded.Writer) -> dict[str, Array]:
        """The next rows by name, at most ``room``, if they are like the first ones."""
        named = dict(zip("xyw", parts, strict=False))
        if self._first is None:
            for label, part in named.items():
                if part.dtype.kind not in "biuf":
                    raise data_invalid(f"{self._what} gave {label} of dtype {part.dtype}; numbers are needed")
            self._first = {label: part[:0].astype(_kept_as(label, part)) for label, part in named.items()}
        if len(named) != len(self._first):
            raise data_invalid(f"{self._what} gave elements of {len(self._first)} and of {len(named)} parts")
        for label, part in named.items():
            if part.shape[1:] != self._first[label].shape[1:]:
                raise data_invalid(
                    f"{self._what} gave rows of shape {list(part.shape[1:])} after rows of "
                    f"{list(self._first[label].shape[1:])}",
                    "All rows need one shape: resize or pad them.",
                )
            if len(part) != len(parts[0]):
                raise data_invalid(f"{self._what} gave batches whose inputs and targets differ in length")
            self._bytes += part.nbytes
        if self._bytes > _LOOK_EVERY_BYTES:
            self._bytes = 0
            self._look_at_the_disk(writer)
        return {label: part[:room].astype(self._first[label].dtype) for label, part in named.items()}

    def _look_at_the_disk(self, writer: decoded.Writer) -> None:
        if shutil.disk_usage(self._folder.parent).free < MIN_FREE_BYTES:
            raise TrainingFailed(
                "disk_full",
                f"{self._what} has filled the disk after {writer.rows} rows of {self._name}.",
                "Is it endless? Bound it with dataset.rows, or free space in Modelyard's home folder.",
            )


def _kept_as(label: str, part: Array) -> Any:
    """Pixels stay bytes, other inputs and weights become float32, targets stay as they are."""
    return np.float32 if label == "w" or (label == "x" and part.dtype != np.uint8) else part.dtype


def _checked(
    spec: UserDataset, arrays: dict[str, dict[str, Array]], fingerprint: str, loss: str | None
) -> TrainingData:
    x, kind = checks.inputs("x", arrays["train"]["x"])
    y = arrays["train"]["y"]
    task = spec.task if spec.task != "auto" else checks.task_of(y, loss)
    targets = checks.class_labels if task == "classification" else checks.number_targets
    rows: dict[str, Rows] = {}
    for name, parts in arrays.items():
        inputs = x if name == "train" else checks.inputs(f"x of {name}", parts["x"])[0]
        checks.same_shape("x of train", x, f"x of {name}", inputs)
        rows[name] = Rows(inputs, targets(f"y of {name}", parts["y"]))
        checks.same_shape("y of train", rows["train"].y, f"y of {name}", rows[name].y)
    classes = None
    if task == "classification":
        count = max(1 + max(int(part.y.max()) for part in rows.values()), y.shape[1] if y.ndim == 2 else 2, 2)
        classes = [str(index) for index in range(count)]
    return TrainingData(
        train=rows["train"],
        validation=rows.get("validation"),
        test=rows.get("test"),
        task=task,
        input_kind=kind,
        classes=classes,
        columns=None,
        fingerprint=fingerprint,
        source=f"builder {spec.builder}",
        weights=_weights(arrays["train"].get("w")),
    )


def _weights(found: Array | None) -> Array | None:
    """Of training rows; those of other splits would change no metric, for metrics are not weighted."""
    if found is None:
        return None
    flat = found.reshape(len(found), -1)
    if flat.shape[1] != 1:
        raise data_invalid(f"weights have shape {list(found.shape)}; one a row is needed")
    checks.finite("w", flat)
    if (flat < 0).any():
        raise data_invalid(f"the weight of row {int(np.argmax(flat[:, 0] < 0))} is below 0")
    return np.ascontiguousarray(flat[:, 0])
