"""Warm-up: a version answers recorded requests of its own before it is AVAILABLE.

``assets.extra/tf_serving_warmup_requests`` in the version's folder is a TFRecord of PredictionLog messages. A first
call of each input shape costs much more than the later ones; this way no client pays for it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from services.serving.errors import Code, ServingError
from services.serving.inference import NO_LIMIT, Inference, Lease
from services.serving.loader import as_serving_error, import_tensorflow
from services.serving.protos import without_tensorflow
from services.serving.signature import Servable
from services.serving.telemetry import Telemetry
from services.serving.tfrecord import records
from services.serving.trace import Trace

log = logging.getLogger("serving.warmup")

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MOST_RECORDS = 1000
_SMALL_BYTES = 2**20  # checking more is for TensorFlow: 0.1 s a megabyte here


def warm_up(servable: Servable, path: str, iterations: int, telemetry: Telemetry) -> None:
    """Run the warm-up records of the version in folder ``path``, if it has any, each ``iterations`` times.

    As in TensorFlow Serving the model's name and version in a record are not looked at.

    Raises:
        ServingError: a record failed or could not be read; DATA_LOSS for a file that is no TFRecord.
    """
    file = os.path.join(path, FILE)
    if not os.path.exists(file):
        return
    if find_spec("tensorflow_serving") is None:
        log.warning("%s: not warmed up, for want of the package tensorflow-serving-api", path)
        return
    began = time.monotonic()
    code = Code.UNKNOWN
    try:
        count = _replay_all(servable, file, iterations)
        code = Code.OK
        log.info("%s: warmed up with %d records in %.2f s", path, count, time.monotonic() - began)
    except ServingError as error:
        code = error.code
        raise
    finally:
        telemetry.warmed_up(path, time.monotonic() - began, code)


def _replay_all(servable: Servable, file: str, iterations: int) -> int:
    inference = Inference(lambda model, version, label: _only(servable))
    count = 0
    for record in _records(file):
        count += 1
        if count > _MOST_RECORDS:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Number of warmup records exceeds the maximum ({_MOST_RECORDS}) at {file}",
            )
        for _ in range(iterations):
            try:
                _replay(inference, record)
            except ServingError as error:
                raise ServingError(
                    error.code, f"Warm-up record {count} of {file} failed: {error.message}"
                ) from error
    return count


@dataclass(frozen=True)
class _Only:
    """The one version that is being warmed up, as a lease."""

    servable: Servable
    version: int = 0


@contextmanager
def _only(servable: Servable) -> Iterator[Lease]:
    yield _Only(servable)


def _records(file: str) -> Iterator[bytes]:
    if os.path.getsize(file) <= _SMALL_BYTES:
        with open(file, "rb") as opened:
            yield from records(opened.read())
        return
    try:
        # The plain iterator: the tf.data way makes a graph or an eager context just to read a file.
        yield from import_tensorflow().compat.v1.io.tf_record_iterator(file)
    except Exception as error:
        raise as_serving_error(error) from error


def _replay(inference: Inference, record: bytes) -> Any:
    from google.protobuf.message import DecodeError

    from services.serving import messages

    with without_tensorflow():
        from tensorflow_serving.apis import prediction_log_pb2

    entry = prediction_log_pb2.PredictionLog()
    try:
        entry.ParseFromString(record)
    except DecodeError as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"Failed to parse warmup record: {error}") from None
    kind = entry.WhichOneof("log_type")
    calls = {
        "predict_log": messages.predict,
        "classify_log": messages.classify,
        "regress_log": messages.regress,
        "multi_inference_log": messages.multi_inference,
    }
    if kind not in calls:
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
    request = getattr(entry, kind).request
    for spec in [task.model_spec for task in getattr(request, "tasks", ())] or [request.model_spec]:
        # whatever model a record names, or names none, it is this one that it warms (saved_model_warmup_util.cc)
        spec.name = spec.name or "this"
    return calls[kind](inference, request, Trace("WARMUP", kind), NO_LIMIT)
