"""A published version's LiteRT model beside its SavedModel: the same answers, an order of magnitude sooner.

``assets.extra/modelyard/litert.json`` says which signatures the file next to it has, and its SHA-256. It is used for
the default signature, if it answers as the SavedModel does; for anything else (other shapes, NaN, errors, other
signatures) the SavedModel answers as if it were alone. That they agree is shown by the publisher's record in that file
(``saved_model``: the SHA-256 of each file that was compared with), or else by trial inputs when the version is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from services.serving.errors import ServingError
from services.serving.plain import block_of
from services.serving.signature import (
    DEFAULT_SIGNATURE,
    Array,
    Servable,
    Signature,
    TensorSpec,
    WrappedServable,
)

log = logging.getLogger("serving.litert")

_FOLDER = os.path.join("assets.extra", "modelyard")
# Where answers may differ: both are float32, in another order of additions.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
_TRIAL_ROWS = (1, 3, 16)
_TRIAL_RUNS, _TRIAL_SECONDS = 5, 0.2  # of one runtime and batch size: whichever ends first
_MOST_ROWS = 256  # more is worth TensorFlow's several threads
_MOST_ROWS_ALONE = 4096  # but not its loading; interpreters for more rows than 256 are not kept
# Interpreters are kept per batch size, for re-planning one costs half a millisecond. Each holds its own weights.
_KEPT_BYTES, _MOST_KEPT = 64 * 2**20, 16
_QUICK_SECONDS = 0.002
_QUICK_ROWS = 64


class LitertSignature:
    """One signature of a LiteRT model, for float32 batches. Safe to call from many threads.

    Raises:
        ValueError, RuntimeError: the file is no model that has it.
    """

    def __init__(self, content: bytes, signature: Signature) -> None:
        self.content = content
        (self.alias,) = signature.inputs
        self._inner = tuple(signature.inputs[self.alias].shape or ())[1:]
        interpreter = _interpreter(content)
        runner = interpreter.get_signature_runner(signature.name)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        (first,) = interpreter.get_input_details()
        if set(inputs) != {self.alias} or set(outputs) != set(signature.outputs):
            raise ValueError("its inputs or outputs have other names")
        if inputs[self.alias]["name"] != first["name"]:
            raise ValueError("the signature is not its first")
        if inputs[self.alias]["dtype"] is not np.float32:
            raise ValueError("its input is not float32")
        self._input = int(first["index"])
        self._outputs = {alias: int(outputs[alias]["index"]) for alias in signature.outputs}
        self._lock = threading.Lock()
        self._idle: list[tuple[int, Any]] = []  # batch size and interpreter, the one used last at the end
        self.most_rows = _MOST_ROWS
        self._kept = max(1, min(_MOST_KEPT, _KEPT_BYTES // max(1, len(content))))

    def alone(self) -> None:
        """There is no TensorFlow beside it that might be sooner with large batches."""
        self.most_rows = _MOST_ROWS_ALONE

    def zeros(self) -> dict[str, Array]:
        """One row of zeros, as inputs that fit."""
        return {self.alias: np.zeros((1, *self._inner), np.float32)}

    def fits(self, inputs: Mapping[str, Array]) -> bool:
        """Whether these are values that LiteRT must answer as TensorFlow does."""
        array = inputs[self.alias]
        return (
            array.ndim == len(self._inner) + 1
            and array.shape[1:] == self._inner
            and 1 <= array.shape[0] <= self.most_rows
            and _is_finite(array)
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by alias for inputs that fit.

        Raises:
            RuntimeError, ValueError: the interpreter gave up.
        """
        array = np.ascontiguousarray(inputs[self.alias], np.float32)
        rows, interpreter = self._take(array.shape[0])
        if rows != array.shape[0]:
            interpreter.resize_tensor_input(self._input, array.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(self._input, array)
        interpreter.invoke()
        outputs = {alias: interpreter.get_tensor(index) for alias, index in self._outputs.items()}
        if array.shape[0] > _MOST_ROWS:
            return outputs
        with self._lock:  # one that has failed is not given back
            self._idle.append((array.shape[0], interpreter))
            if len(self._idle) > self._kept:
                del self._idle[0]
        return outputs

    def _take(self, rows: int) -> tuple[int, Any]:
        with self._lock:
            for place in range(len(self._idle) - 1, -1, -1):
                if self._idle[place][0] == rows:
                    return self._idle.pop(place)
            if len(self._idle) >= self._kept:
                return self._idle.pop(0)
        return 0, _interpreter(self.content)


class LitertServable(WrappedServable):
    """A ``Servable`` whose default signature runs on LiteRT wherever that is right."""

    def __init__(
        self, inner: Servable, litert: LitertSignature, *, quick: bool, ready: frozenset[str] | None = None
    ) -> None:
        super().__init__(inner)
        # The signatures that can be run without loading anything; None: all of them.
        self.ready = ready
        self._litert = litert
        self.block = block_of(inner.signatures[DEFAULT_SIGNATURE])
        self.quick = quick  # a small batch takes less time than handing it to another thread is worth

    def is_quick(self, signature: Signature, inputs: Mapping[str, Array]) -> bool:
        """Whether this call takes LiteRT and little time: it may run on the thread that serves all connections."""
        return (
            self.quick
            and signature.name == DEFAULT_SIGNATURE
            and inputs[self._litert.alias].shape[:1] <= (_QUICK_ROWS,)
            and self._litert.fits(inputs)
        )

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        *,
        timeout: float | None = None,
        only: Sequence[str] = (),
    ) -> dict[str, Array]:
        """See ``Servable.run``."""
        if signature.name == DEFAULT_SIGNATURE and self._litert.fits(inputs):
            try:
                outputs = self._litert.run(inputs)
            except (RuntimeError, ValueError) as error:
                log.warning("LiteRT gave up, TensorFlow answers: %s", error)
            else:
                return {alias: outputs[alias] for alias in only} if only else outputs
        return self.inner.run(signature, inputs, timeout=timeout, only=only)

    def run_fitting(self, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
        """The default signature's outputs for inputs that ``is_quick`` has looked at; None: LiteRT gave up."""
        try:
            return self._litert.run(inputs)
        except (RuntimeError, ValueError) as error:
            log.warning("LiteRT gave up: %s", error)
            return None

    @property
    def model(self) -> LitertSignature:
        """What answers the default signature."""
        return self._litert

    def close(self) -> None:
        """Give the memory back."""
        self.inner.close()


def with_litert(servable: Servable, path: str) -> Servable:
    """``servable`` with the LiteRT model of its folder ``path`` in front, if there is one and it agrees."""
    if isinstance(servable, LitertServable):
        return servable
    signature = servable.signatures.get(DEFAULT_SIGNATURE)
    try:
        content = _read(path)
        if content is None or signature is None or not _is_float_batch(signature):
            return servable
        litert = LitertSignature(content, signature)
        seconds = _try(servable, signature, litert)
    except (ImportError, OSError, ValueError, KeyError, TypeError, RuntimeError, ServingError) as error:
        log.warning("%s: its LiteRT model is not used: %s", path, error)
        return servable
    log.info(
        "%s: %s runs on LiteRT (%.3f ms a row, up to %d rows)",
        path,
        DEFAULT_SIGNATURE,
        seconds * 1000,
        litert.most_rows,
    )
    return LitertServable(servable, litert, quick=seconds < _QUICK_SECONDS)


def published(path: str) -> bool:
    """Whether the version in folder ``path`` has a LiteRT model beside it."""
    return os.path.exists(os.path.join(path, _FOLDER, "litert.json"))


def verified(path: str) -> bytes | None:
    """The LiteRT model of the version in folder ``path`` that the publisher compared with the SavedModel as it is now.

    None: no record, or files that are not those of the record.

    Raises:
        OSError, ValueError, KeyError, TypeError: a record that is none.
    """
    notes = _notes(path)
    recorded = (notes or {}).get("saved_model")
    if not isinstance(recorded, dict) or "saved_model.pb" not in recorded:
        return None
    variables = os.path.join(path, "variables")
    found = {"saved_model.pb"}
    if os.path.isdir(variables):
        found.update(f"variables/{name}" for name in os.listdir(variables))
    if found != set(recorded) or any(_sha256(os.path.join(path, name)) != recorded[name] for name in found):
        return None
    return _read(path)


def seconds_a_row(litert: LitertSignature) -> float:
    """The time of one row of zeros."""
    return _timed(partial(litert.run, litert.zeros()))[1]


def _sha256(file: str) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _notes(path: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(path, _FOLDER, "litert.json"), "rb") as file:
            notes = json.load(file)
    except FileNotFoundError:
        return None
    if not isinstance(notes, dict):
        raise TypeError("litert.json holds no object")
    return notes


def _read(path: str) -> bytes | None:
    folder = os.path.join(path, _FOLDER)
    notes = _notes(path)
    described = None if notes is None else notes["signatures"].get(DEFAULT_SIGNATURE)
    if described is None:
        return None
    name = os.path.normpath(str(described["file"]))
    if os.path.isabs(name) or name.startswith(".."):
        raise ValueError(f"it can't lie at {name}")
    with open(os.path.join(folder, name), "rb") as file:
        content = file.read()
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise ValueError(f"{name} is not the file that litert.json describes")
    return content


def _is_float_batch(signature: Signature) -> bool:
    def fits(spec: TensorSpec) -> bool:
        return spec.dtype == "float" and bool(spec.shape) and (spec.shape or (0,))[0] == -1

    inputs = list(signature.inputs.values())
    inner = (inputs[0].shape or ())[1:] if len(inputs) == 1 else (-1,)
    return all(size > 0 for size in inner) and all(map(fits, [*inputs, *signature.outputs.values()]))


def _try(servable: Servable, signature: Signature, litert: LitertSignature) -> float:
    """Compare both on made-up rows, and set up to which batch LiteRT is sooner; the seconds that it takes for one row.

    With several cores, or a GPU, TensorFlow may be ahead from some batch size on, or altogether.

    Raises:
        ValueError: they differ, or TensorFlow is ahead.
        ServingError: TensorFlow refuses the rows.
    """
    random = np.random.default_rng(0)
    shape = (signature.inputs[litert.alias].shape or ())[1:]
    best, ahead = math.inf, 0
    for rows in _TRIAL_ROWS:
        inputs = {litert.alias: random.uniform(0.0, 1.0, (rows, *shape)).astype(np.float32)}
        expected, slow = _timed(partial(servable.run, signature, inputs))
        found, seconds = _timed(partial(litert.run, inputs))
        best = min(best, seconds / rows)
        if seconds <= slow:
            ahead = rows
        for alias, array in expected.items():
            if found[alias].shape != array.shape or not np.allclose(
                found[alias], array, rtol=_RELATIVE, atol=_ABSOLUTE
            ):
                raise ValueError(f"output {alias} differs from the SavedModel's for {rows} rows")
    if not ahead:
        raise ValueError("TensorFlow is faster")
    litert.most_rows = _MOST_ROWS if ahead == _TRIAL_ROWS[-1] else ahead
    return best


def _timed(call: Callable[[], dict[str, Array]]) -> tuple[dict[str, Array], float]:
    """What ``call`` gives, and the seconds of its quickest run; the first one, which sets things up, doesn't count."""
    found = call()
    best, until = math.inf, time.perf_counter() + _TRIAL_SECONDS
    for _ in range(_TRIAL_RUNS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() > until:
            break
    return found, best


def _is_finite(array: Array) -> bool:
    # a sum that overflows says no as well, which does no harm
    return math.isfinite(np.vdot(array, array))


def _interpreter(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter
