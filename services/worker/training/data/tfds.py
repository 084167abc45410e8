"""Datasets of tensorflow_datasets: prepared once by the genuine builder, decoded once into arrays on disk.

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
from services.worker.training.data.preparing import Preparing
from services.worker.training.data.record import Array, InputKind, Rows, TrainingData
from services.worker.training.failures import TrainingFailed, data_invalid
from shared.specs import TfdsDataset

if TYPE_CHECKING:
    from services.worker.training.emitter import Emitter
    from services.worker.training.pixels import Pixels

_BATCH_BYTES = 8 * 2**20
_MAX_BATCH = 1024


def load(
    spec: TfdsDataset, tfds_dir: Path, cache_dir: Path, *, emit: Emitter, loss: str | None
) -> TrainingData:
    """Train and test split as arrays.

    Raises:
        TrainingFailed: data_invalid, data_unreachable or disk_full.
    """
    opened = _Opened(spec.tfds, tfds_dir, emit)
    train, notes = _split(spec, spec.train_split, cache_dir, opened)
    test, test_notes = _split(spec, spec.test_split, cache_dir, opened) if spec.test_split else (None, {})
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
        fingerprint=decoded.fingerprint_of(train=notes["fingerprint"], test=test_notes.get("fingerprint")),
        source=f"tfds {notes['name']}",
        pixels=_pixels(spec, tuple(rows.x.shape[1:])) if spec.image_size is not None else None,
    )


def _rows(arrays: dict[str, Array], task: str) -> Rows:
    y = arrays["y"]
    return Rows(arrays["x"], y if task == "classification" else y.astype(np.float32))


class _Opened:
    """The builder, made and prepared at the first need only."""

    def __init__(self, name: str, tfds_dir: Path, emit: Emitter) -> None:
        self._name, self._dir, self.emit = name, tfds_dir, emit
        self._builder: Any = None

    def builder(self) -> Any:
        if self._builder is None:
            from services.worker.training.data import download

            self._builder = download.prepared_builder(self._name, self._dir, self.emit)
        return self._builder


def _split(
    spec: TfdsDataset, split: str, cache_dir: Path, opened: _Opened
) -> tuple[dict[str, Array], dict[str, Any]]:
    folder = cache_dir / "tfds" / cache_key(spec.tfds, split, options_of(spec))
    found = decoded.read(folder)
    if found is not None:
        return found
    _decode(opened.builder(), spec, split, folder, opened.emit)
    return decoded.must_read(folder)


def options_of(spec: TfdsDataset) -> str:
    """What of a spec changes the decoded arrays, beside name and split; empty for the defaults."""
    chosen = (spec.x, spec.y, spec.image_size, spec.color_mode, spec.interpolation, spec.crop_to_aspect_ratio)
    return "" if chosen == (None, None, None, None, "bilinear", False) else repr(chosen)


def cache_key(name: str, split: str, options: str = "") -> str:
    """A folder name for a dataset as asked for. The package's version decides which version ``name`` means."""
    version = importlib.metadata.version("tensorflow-datasets")
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{name}-{split}")[:80]
    parts = [name, split, version, *([options] if options else [])]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return f"{readable}-{digest}"


def _decode(builder: Any, spec: TfdsDataset, split: str, folder: Path, emit: Emitter) -> None:
    import tensorflow as tf

    x_name, y_name = _keys(builder, spec)
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
    element = {"x": dataset.element_spec[x_name], "y": dataset.element_spec[y_name]}
    _check_features(builder, element, (x_name, y_name))
    prepare = _preparation(builder, spec, element["x"], element["y"])
    dataset = dataset.map(lambda row: prepare(row[x_name], row[y_name]), num_parallel_calls=tf.data.AUTOTUNE)
    shape = tuple(dataset.element_spec["x"].shape)
    size = int(np.prod(shape)) * dataset.element_spec["x"].dtype.size + 4
    decoded.require_room(folder, count * size)
    with decoded.Writer(folder) as writer:
        batch = min(_MAX_BATCH, max(1, _BATCH_BYTES // size))
        largest = _write(dataset, writer, count, batch, Preparing(emit, spec.tfds))
        whole = not element["y"].dtype.is_floating
        names = getattr(builder.info.features[y_name], "names", None)
        if whole and not names:
            names = [str(number) for number in range(largest + 1)]
        writer.finish(
            {
                "name": builder.info.full_name,
                "split": split,
                "task": "classification" if whole else "regression",
                "input_kind": _kind(shape),
                "classes": list(names) if whole and names else None,
            }
        )


def _write(dataset: Any, writer: decoded.Writer, count: int, batch: int, preparing: Preparing) -> int:
    """All rows; returns the largest label."""
    largest = 0
    for part in dataset.batch(batch).prefetch(2).as_numpy_iterator():
        y = part["y"]
        if y.dtype.kind != "f" and len(y) and int(y.min()) < 0:
            raise data_invalid(f"the label {int(y.min())} is below 0; classes count from 0")
        largest = max(largest, int(y.max()) if y.dtype.kind != "f" else 0)
        writer.append(x=part["x"], y=y)
        preparing.tell("decode", writer.rows, count)
    if writer.rows != count:
        raise TrainingFailed(
            "data_invalid", f"expected {count} rows but read {writer.rows}", "Delete the prepared dataset."
        )
    return largest


def _keys(builder: Any, spec: TfdsDataset) -> tuple[str, str]:
    features: list[str] = list(builder.info.features.keys())
    if spec.x is not None and spec.y is not None:
        for field, name in (("x", spec.x), ("y", spec.y)):
            if name not in features:
                raise data_invalid(
                    f"{builder.info.name} has no feature {name!r} (dataset.{field})",
                    f"Its features are {', '.join(features)}.",
                )
        return spec.x, spec.y
    keys = builder.info.supervised_keys
    if keys is None or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise data_invalid(
            f"{builder.info.name} does not say which of its features is the input and which the label",
            f"Name them in dataset.x and dataset.y; its features are {', '.join(features)}.",
        )
    return keys[0], keys[1]


def _check_features(builder: Any, element: dict[str, Any], names: tuple[str, str]) -> None:
    for what, name, part in zip(("inputs", "labels"), names, element.values(), strict=True):
        if not hasattr(part, "shape") or not hasattr(part, "dtype"):
            raise data_invalid(
                f"the {what} of {builder.info.name}, {name!r}, are nested or sequences: {part}",
                "Name a feature of numbers or images in dataset.x and dataset.y.",
            )
        if part.dtype.name == "string":
            raise data_invalid(
                f"the {what} of {builder.info.name}, {name!r}, are text, which is not trained on here",
                "Name other features in dataset.x and dataset.y, or turn the text into numbers and write arrays to an "
                ".npz file.",
            )
    if element["y"].shape.rank:
        raise data_invalid(
            f"the labels of {builder.info.name} have shape {list(element['y'].shape)}; one number a row is needed",
            "Name another feature in dataset.y.",
        )


def _preparation(builder: Any, spec: TfdsDataset, x: Any, y: Any) -> Any:
    """A function of TensorFlow from one row's features to what is kept: x uint8 or float32 of one shape, and y."""
    import tensorflow as tf

    from services.worker.training.pixels import resize, to_bytes

    image = x.shape.rank == 3 and x.shape[-1] in {1, 3, 4}
    resizing = spec.image_size is not None or spec.color_mode is not None
    if resizing and not image:
        raise data_invalid(
            f"the inputs of {builder.info.name} have shape {list(x.shape)}: they are not images",
            "Leave dataset.image_size and dataset.color_mode out.",
        )
    if not resizing and not x.shape.is_fully_defined():
        raise data_invalid(
            f"the inputs of {builder.info.name} have no single shape: {list(x.shape)}",
            "Set dataset.image_size, such as [128, 128], to have images resized."
            if image
            else "Rows of varying length are not trained on; write arrays of one shape to an .npz file.",
        )
    if not resizing or x.shape.is_fully_defined():
        pixels = _pixels(spec, tuple(x.shape)) if resizing else None
    elif spec.image_size is not None:
        pixels = _pixels(spec, (*spec.image_size, x.shape[-1]))
    else:
        raise data_invalid(
            f"the images of {builder.info.name} vary in size", "Set dataset.image_size, such as [128, 128]."
        )
    whole = x.dtype == tf.uint8
    label = tf.float32 if y.dtype.is_floating else tf.int32

    def prepare(x: Any, y: Any) -> dict[str, Any]:
        if pixels is not None:
            x = resize(_colored(x, pixels.channels), pixels)
            x = to_bytes(x) if whole else x
        elif x.dtype != tf.uint8:
            x = tf.cast(x, tf.float32)
        return {"x": x, "y": tf.cast(y, label)}

    return prepare


def _colored(image: Any, channels: int) -> Any:
    """An image with 1, 3 or 4 channels as one with ``channels``."""
    import tensorflow as tf

    have = image.shape[-1]
    if have == channels:
        return image
    if channels == 1:
        return tf.image.rgb_to_grayscale(image[..., :3])
    if have == 1:
        image = tf.image.grayscale_to_rgb(image)
    if channels == 3:
        return image[..., :3]
    return tf.concat([image, tf.fill(tf.concat([tf.shape(image)[:2], [1]], 0), tf.cast(255, image.dtype))], 2)


def _pixels(spec: TfdsDataset, shape: tuple[int, ...]) -> Pixels:
    from services.worker.training.pixels import Pixels

    return Pixels.of(spec, size=(shape[0], shape[1]), channels=shape[2])


def _kind(shape: tuple[int, ...]) -> InputKind:
    if len(shape) == 3 and shape[-1] in {1, 3, 4}:
        return "image"
    return "tabular" if len(shape) == 1 else "tensor"
