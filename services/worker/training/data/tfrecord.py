"""TFRecord files of ``tf.train.Example``, read as a feature spec says: decoded once into arrays on disk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.worker.training.data import checks, decoded
from services.worker.training.data.in_order import in_order
from services.worker.training.data.preparing import Preparing
from services.worker.training.data.record import Array, InputKind, Rows, Task, TrainingData
from services.worker.training.failures import data_invalid, shorten
from shared.specs import TfrecordDataset

if TYPE_CHECKING:
    from services.worker.training.emitter import Emitter
    from services.worker.training.pixels import Pixels

BATCH = 128
_GZIP_MAGIC = b"\x1f\x8b"


def load(
    spec: TfrecordDataset, files: dict[str, list[Path]], cache_dir: Path, *, emit: Emitter, loss: str | None
) -> TrainingData:
    """All examples, in the files' order. ``files`` has those of ``tfrecord`` and, if named, of ``test``.

    Raises:
        TrainingFailed: data_invalid, naming file and record; disk_full.
    """
    train, notes = _decoded(spec, files["tfrecord"], cache_dir, emit)
    task: Task = (
        "classification" if spec.features[spec.y].dtype == "string" else checks.task_of(train["y"], loss)
    )
    names = notes["values"] or spec.class_names
    rows = Rows(train["x"], _targets(spec.y, train["y"], task))
    test_rows, test_notes = None, dict[str, Any]()
    if "test" in files:
        test, test_notes = _decoded(spec, files["test"], cache_dir, emit)
        y = _targets(spec.y, test["y"], task)
        if notes["values"]:
            y = _renumbered(y, test_notes["values"], notes["values"], spec.y)
        test_rows = Rows(test["x"], y)
        checks.same_shape("tfrecord", rows.x, "test", test_rows.x)
    return TrainingData(
        train=rows,
        validation=None,
        test=test_rows,
        task=task,
        input_kind=_kind(spec, rows.x.shape[1:]),
        classes=_classes(names, rows, test_rows) if task == "classification" else None,
        columns=None,
        fingerprint=decoded.fingerprint_of(
            # codes alone do not tell the texts that they stand for
            classes=repr((notes["values"], test_notes.get("values"))),
            train=notes["fingerprint"],
            test=test_notes.get("fingerprint"),
        ),
        source=f"tfrecord {spec.tfrecord if isinstance(spec.tfrecord, str) else ', '.join(spec.tfrecord[:3])}",
        pixels=_pixels(spec),
    )


def _targets(name: str, y: Array, task: Task) -> Array:
    return checks.class_labels(name, y) if task == "classification" else checks.number_targets(name, y)


def _renumbered(y: Array, names: list[str], known: list[str], feature: str) -> Array:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise data_invalid(f"the test files have the {feature} {unknown[0]!r}, which no training example has")
    table = np.asarray([known.index(name) for name in names], np.int32)
    return table[y]


def _classes(names: list[str] | None, rows: Rows, test: Rows | None) -> list[str]:
    count = 1 + max(int(part.y.max()) for part in (rows, test) if part is not None)
    if names is None:
        return [str(number) for number in range(max(2, count))]
    if count > len(names):
        raise data_invalid(f"labels go up to {count - 1}, but dataset.class_names has {len(names)} names")
    return names


def _kind(spec: TfrecordDataset, shape: tuple[int, ...]) -> InputKind:
    if spec.features[spec.x_name()].decode == "image" or (len(shape) == 3 and shape[-1] in {1, 3, 4}):
        return "image"
    return "tabular" if len(shape) == 1 else "tensor"


def _pixels(spec: TfrecordDataset) -> Pixels | None:
    feature = spec.features[spec.x_name()]
    if feature.decode != "image":
        return None
    from services.worker.training.pixels import Pixels

    height, width, channels = feature.shape or (*(spec.image_size or (0, 0)), 3)
    return Pixels.of(spec, size=(height, width), channels=channels)


def _decoded(
    spec: TfrecordDataset, files: list[Path], cache_dir: Path, emit: Emitter
) -> tuple[dict[str, Array], dict[str, Any]]:
    options = spec.model_dump(
        mode="json",
        include={
            "features", "x", "y", "compression", "image_size", "color_mode", "interpolation", "crop_to_aspect_ratio"
        },
    )  # fmt: skip
    try:
        stamps = [(str(path), (facts := path.stat()).st_size, facts.st_mtime_ns) for path in files]
    except OSError as error:
        raise data_invalid(f"{error.filename} can't be read: {error.strerror}") from error
    key = hashlib.sha256(json.dumps([options, stamps], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir / "tfrecord" / key
    found = decoded.read(folder)
    if found is not None:
        return found
    # examples are seldom smaller than what they decode to, but for images; what is written is checked as it grows
    decoded.require_room(folder, sum(size for _, size, _ in stamps))
    with decoded.Writer(folder) as writer:
        reader = _Reader(
            spec, writer, Preparing(emit, files[0].name if len(files) == 1 else f"{len(files)} files")
        )
        reader.read(files, sum(size for _, size, _ in stamps))
    return decoded.must_read(folder)


@dataclass
class _Batch:
    """Serialized examples of one file, with the number of the first."""

    path: Path
    first: int
    examples: list[bytes] = field(default_factory=list)


class _Reader:
    def __init__(self, spec: TfrecordDataset, writer: decoded.Writer, preparing: Preparing) -> None:
        import tensorflow as tf

        self._tf, self._spec, self._writer, self._preparing = tf, spec, writer, preparing
        self._x_name = spec.x_name()
        self._pixels = _pixels(spec)
        self._schema = {name: self._feature(name) for name in {self._x_name, spec.y}}
        if self._pixels is not None:
            from services.worker.training.data.images import decoder

            self._image = decoder(self._pixels)

    def read(self, files: list[Path], total: int) -> None:
        """Write all examples, and finish."""
        texts: list[str] = []
        sizes, read = {path: path.stat().st_size for path in files}, 0
        last: Path | None = None
        for batch, x, y in in_order(self._batches(files), self._parsed):
            if last is not None and batch.path != last:
                read += sizes[last]
            last = batch.path
            if isinstance(y, list):
                texts += y
                self._writer.append(x=x)
            else:
                self._writer.append(x=x, y=y)
            self._preparing.tell("decode", read, total, "bytes")
        if not self._writer.rows:
            raise data_invalid(f"there are no records in {_named(files)}")
        values: list[str] = []
        if texts:
            found, codes = np.unique(texts, return_inverse=True)
            values = found.tolist()
            self._writer.append(y=codes.astype(np.int32))
        self._writer.finish({"values": values or None})

    def _feature(self, name: str) -> Any:
        tf, spec = self._tf, self._spec.features[name]
        if spec.dtype == "string":
            return tf.io.FixedLenFeature([], tf.string)
        dtype = tf.int64 if spec.dtype == "int64" else tf.float32
        default = None
        if spec.default is not None:
            default = np.full(spec.shape, spec.default, dtype.as_numpy_dtype)
        return tf.io.FixedLenFeature(spec.shape, dtype, default)

    def _batches(self, files: list[Path]) -> Iterator[_Batch]:
        for path in files:
            batch = _Batch(path, 0)
            for index, example in enumerate(self._records(path)):
                batch.examples.append(example)
                if len(batch.examples) == BATCH:
                    yield batch
                    batch = _Batch(path, index + 1)
            if batch.examples:
                yield batch

    def _records(self, path: Path) -> Iterator[bytes]:
        tf, compression = self._tf, self._spec.compression
        if compression == "auto":
            with path.open("rb") as file:
                compression = "GZIP" if file.read(2) == _GZIP_MAGIC else "none"
        index = 0
        try:
            records = tf.data.TFRecordDataset(str(path), "" if compression == "none" else compression)
            for record in records.as_numpy_iterator():
                yield record
                index += 1
        except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
            raise data_invalid(
                f"{path.name}, record {index}: it is broken or cut short ({_plain(error)})",
                "Write the file again."
                if index
                else "Is it a TFRecord file, and is it compressed as dataset.compression says?",
            ) from error

    def _parsed(self, batch: _Batch) -> tuple[_Batch, Array, Array | list[str]]:
        tf = self._tf
        try:
            values = tf.io.parse_example(tf.constant(batch.examples), self._schema)
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
            raise self._first_wrong(batch, error) from error
        x = self._inputs(batch, values[self._x_name].numpy())
        y = values[self._spec.y].numpy()
        if self._spec.features[self._spec.y].dtype == "string":
            return batch, x, [text.decode("utf-8", "replace") for text in y]
        if y.dtype.kind == "i" and len(y) and (int(y.min()) < -(2**31) or int(y.max()) >= 2**31):
            raise data_invalid(
                f"{batch.path.name}: the label {int(abs(y).max())} is too large for a class number"
            )
        return batch, x, y.astype(np.int32) if y.dtype.kind == "i" else y

    def _inputs(self, batch: _Batch, values: Array) -> Array:
        spec = self._spec.features[self._x_name]
        if spec.decode == "image":
            found = []
            for number, data in enumerate(values, batch.first):
                try:
                    found.append(self._image(data))
                except ValueError as error:
                    raise data_invalid(
                        f"{batch.path.name}, record {number}: the image {self._x_name!r} can't be decoded: {error}"
                    ) from error
            return np.stack(found)
        if spec.decode == "raw":
            return self._raw(batch, values)
        x = values.astype(np.float32)
        if not np.isfinite(x).all():
            bad = int(np.argwhere(~np.isfinite(x))[0, 0])
            raise data_invalid(
                f"{batch.path.name}, record {batch.first + bad}: {self._x_name!r} holds NaN or infinity"
            )
        return x[:, np.newaxis] if x.ndim == 1 else x

    def _raw(self, batch: _Batch, values: Array) -> Array:
        spec = self._spec.features[self._x_name]
        dtype = np.dtype(spec.raw_dtype).newbyteorder("<")
        size = int(np.prod(spec.shape)) * dtype.itemsize
        for number, data in enumerate(values, batch.first):
            if len(data) != size:
                raise data_invalid(
                    f"{batch.path.name}, record {number}: {self._x_name!r} is {len(data)} bytes long; shape "
                    f"{spec.shape} of {spec.raw_dtype} takes {size}"
                )
        x = np.frombuffer(b"".join(values), dtype).reshape(len(values), *spec.shape)
        return x if x.dtype == np.uint8 else x.astype(np.float32)

    def _first_wrong(self, batch: _Batch, error: Any) -> Exception:
        tf = self._tf
        for number, example in enumerate(batch.examples, batch.first):
            try:
                tf.io.parse_single_example(example, self._schema)
            except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as found:
                return data_invalid(
                    f"{batch.path.name}, record {number}: it is not as dataset.features says: "
                    f"{_plain(found)}",
                    "Compare names, dtypes and shapes with what was written.",
                )
        return data_invalid(f"{batch.path.name}: {_plain(error)}")


def _plain(error: Any) -> str:
    """TensorFlow's words without the names of its ops."""
    return shorten(re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error.message)), 300)


def _named(files: list[Path]) -> str:
    return files[0].name if len(files) == 1 else f"any of the {len(files)} files"
