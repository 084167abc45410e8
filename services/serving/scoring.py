"""Classify and regress: which signatures can, and what their outputs mean.

TensorFlow Serving does not check the signature's ``method_name`` by default (TensorFlow 2 exports all say
"predict"), so neither is it checked here, but by the flag that asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from services.serving.encode import format_floats
from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.json_echo import quote
from services.serving.signature import Array, Servable, Signature
from services.serving.tensors import type_of

_INPUTS = "inputs"
_METHODS = {name: f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress")}


@dataclass(frozen=True)
class Classes:
    """What a classification gave: labels and scores, each of ``shape`` [examples, classes] if there at all."""

    labels: Array | None
    scores: Array | None
    shape: tuple[int, int]


def check_classify(signature: Signature) -> None:
    """Whether ``signature`` has the form of a classification.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    _require_input(signature, "classification", most_outputs=2)
    if not signature.outputs.keys() & {"classes", "scores"}:
        raise invalid_argument(
            'Expected classification signature outputs to contain at least one of "classes" or "scores".'
            f" Signature was: {signature.name}"
        )


def check_regress(signature: Signature) -> None:
    """Whether ``signature`` has the form of a regression. See ``check_classify``."""
    _require_input(signature, "regression", most_outputs=1)
    if "outputs" not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {signature.name}")


def check_method_name(signature: Signature, method: Literal["predict", "classify", "regress"]) -> None:
    """Whether ``signature`` was exported for ``method``: --enable_signature_method_name_check.

    Raises:
        ServingError: it was not; INTERNAL for predict, else INVALID_ARGUMENT, as in TensorFlow Serving.
    """
    was = signature.method_name
    if method == "predict":
        if was not in _METHODS.values():
            raise ServingError(
                Code.INTERNAL,
                f"Expected prediction signature method_name to be one of {{{', '.join(_METHODS.values())}}}."
                f" Was: {was}",
            )
    elif was != _METHODS[method]:
        kind = {"classify": "classification", "regress": "regression"}[method]
        raise invalid_argument(f"Expected {kind} signature method_name to be {_METHODS[method]}. Was: {was}")


def classify(
    servable: Servable, signature: Signature, examples: Array, timeout: float | None = None
) -> Classes:
    """Run a classification of serialized tf.Example messages (shape [n], dtype object).

    Raises:
        ServingError: INVALID_ARGUMENT for a signature or outputs of another form; the graph's own errors.
    """
    check_classify(signature)
    _require_text(signature)
    outputs = servable.run(signature, {_INPUTS: examples}, timeout=timeout)
    classes, scores = outputs.get("classes"), outputs.get("scores")
    for name, array, dtype in (("classes", classes, "string"), ("scores", scores, "float")):
        if array is not None:
            _check_output(name, array, dtype, len(examples))
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{classes.shape[1]} vs. {scores.shape[1]}"
        )
    shape = classes.shape if classes is not None else scores.shape if scores is not None else (0, 0)
    return Classes(classes, scores, (shape[0], shape[1]))


def regress(servable: Servable, signature: Signature, examples: Array, timeout: float | None = None) -> Array:
    """Run a regression: one float32 per example. See ``classify`` for arguments and errors."""
    check_regress(signature)
    _require_text(signature)
    values = servable.run(signature, {_INPUTS: examples}, timeout=timeout)["outputs"]
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(values)}"
        )
    if values.shape[0] != len(examples):
        raise invalid_argument(
            f"Input batch size did not match output batch size: {len(examples)} vs. {values.shape[0]}"
        )
    if values.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_type_name(values)}")
    return values.ravel()


def classes_json(found: Classes) -> bytes:
    """Per example a list of ``[label, score]`` pairs; label "" and score 0.0 where the signature has none."""
    examples, width = found.shape
    labels = ['""'] * (examples * width)
    if found.labels is not None:
        labels = [quote(label.decode("utf-8", "surrogateescape")) for label in found.labels.ravel().tolist()]
    numbers = np.zeros(found.shape, np.float32) if found.scores is None else found.scores
    pairs = [
        f"[{label}, {score}]"
        for label, score in zip(labels, format_floats(numbers.ravel(), "%.9g"), strict=True)
    ]
    rows = (f"[{', '.join(pairs[at : at + width])}]" for at in range(0, len(pairs), width or 1))
    # No class at all is still one (empty) list per example. Only here does a line break precede the bracket.
    return _results(list(rows) if width else ["[]"] * examples, "\n    ")


def values_json(values: Array) -> bytes:
    """One number per example."""
    return _results(format_floats(values, "%.9g"))


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature, with the error text that classify and regress have for an unknown one."""
    signature = signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return signature


def _require_input(signature: Signature, kind: str, *, most_outputs: int) -> None:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if not 1 <= len(signature.outputs) <= most_outputs:
        raise invalid_argument(
            "Expected one output Tensor."
            if most_outputs == 1
            else f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if _INPUTS not in signature.inputs:
        raise invalid_argument(f"No {kind} inputs found in SignatureDef: {signature.name}")


def _require_text(signature: Signature) -> None:
    dtype = signature.inputs[_INPUTS].dtype
    if dtype != "string":
        raise invalid_argument(f"Expects arg[0] to be {dtype} but string is provided")


def _check_output(name: str, array: Array, dtype: str, examples: int) -> None:
    error: ServingError | None = None
    if array.ndim != 2:
        error = invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
    elif (array.dtype != np.float32) if dtype == "float" else (array.dtype.kind not in "OS"):
        error = invalid_argument(f"Expected {name} Tensor of DT_{dtype.upper()}. Got: {_type_name(array)}")
    elif array.shape[0] != examples:
        error = invalid_argument(f"Expected {name} output batch size of {examples}. Got: {array.shape[0]}")
    if error is not None:
        raise error


def _type_name(array: Array) -> str:
    """TensorFlow's name of a type: DT_DOUBLE, DT_STRING, ..."""
    return f"DT_{type_of(array).upper()}"


def _shape(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _results(items: list[str], end: str = "") -> bytes:
    text = f'{{\n    "results": [{", ".join(items)}{end}]\n}}'
    return text.encode("utf-8", "surrogateescape")
