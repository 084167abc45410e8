"""TensorFlow Serving's request messages to calls of ``Inference``, and the results to its response messages.

For gRPC and for warm-up records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.inference import Inference, Target, Task
from services.serving.protos import without_tensorflow
from services.serving.scoring import Classes
from services.serving.signature import Array
from services.serving.tensors import fill_proto, to_array
from services.serving.trace import Trace

with without_tensorflow():
    from tensorflow_serving.apis import (
        classification_pb2,
        inference_pb2,
        model_pb2,
        predict_pb2,
        regression_pb2,
    )


def target_of(request: Any, *, nameless: bool = False) -> Target:
    """Which model a request's ``model_spec`` means. ``nameless``: it need not say so.

    Raises:
        ServingError: INVALID_ARGUMENT if it says nothing.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    if not (spec.name or nameless):
        raise invalid_argument("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    return Target(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def predict(
    inference: Inference, request: Any, trace: Trace, timeout: float, *, as_content: bool = False
) -> Any:
    """Answer a PredictRequest."""
    target = target_of(request)
    trace.model = target.model
    found = inference.predict(
        target,
        request.model_spec.signature_name,
        _Tensors(request.inputs),
        tuple(request.output_filter),
        trace,
        timeout,
    )
    response = predict_pb2.PredictResponse(model_spec=_spec(target.model, found.version, found.signature))
    for alias, array in found.outputs.items():
        try:
            fill_proto(response.outputs[alias], array, as_content=as_content)
        except ValueError as error:
            raise ServingError(Code.UNIMPLEMENTED, f"output {alias}: {error}") from None
    return response


def classify(inference: Inference, request: Any, trace: Trace, timeout: float) -> Any:
    """Answer a ClassificationRequest."""
    target = target_of(request)
    trace.model = target.model
    found, version = inference.classify(
        target, request.model_spec.signature_name, lambda: _examples(request.input), trace, timeout
    )
    response = classification_pb2.ClassificationResponse(
        model_spec=_spec(target.model, version, trace.signature)
    )
    _fill_classes(response.result, found)
    return response


def regress(inference: Inference, request: Any, trace: Trace, timeout: float) -> Any:
    """Answer a RegressionRequest."""
    target = target_of(request)
    trace.model = target.model
    values, version = inference.regress(
        target, request.model_spec.signature_name, lambda: _examples(request.input), trace, timeout
    )
    response = regression_pb2.RegressionResponse(model_spec=_spec(target.model, version, trace.signature))
    _fill_values(response.result, values)
    return response


def multi_inference(inference: Inference, request: Any, trace: Trace, timeout: float) -> Any:
    """Answer a MultiInferenceRequest."""
    if not (request.tasks and request.tasks[0].model_spec.name):
        raise invalid_argument("ModelSpec has no name specified.")
    tasks = [_task(task) for task in request.tasks]
    trace.model = tasks[0].target.model
    response = inference_pb2.MultiInferenceResponse()
    # A function, because the model and its signatures are looked up before the input is looked at.
    found_all = inference.multi(tasks, lambda: _examples(request.input), trace, timeout)
    for found, task in zip(found_all, tasks, strict=True):
        result = response.results.add(model_spec=_spec(task.target.model, found.version, found.signature))
        if isinstance(found.result, Classes):
            _fill_classes(result.classification_result, found.result)
        else:
            _fill_values(result.regression_result, found.result)
    return response


class _Tensors(Mapping[str, tuple[str, Array]]):
    """A request's inputs, each made an array when it is looked at: the model is looked up before."""

    def __init__(self, inputs: Any) -> None:
        self._inputs = inputs

    def __getitem__(self, alias: str) -> tuple[str, Array]:
        if alias not in self._inputs:  # a protobuf map would add it
            raise KeyError(alias)
        try:
            return to_array(self._inputs[alias])
        except ValueError:
            raise invalid_argument(f"tensor parsing error: {alias}") from None

    def __contains__(self, alias: object) -> bool:
        return alias in self._inputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)


def _task(task: Any) -> Task:
    target = target_of(task, nameless=True) if task.HasField("model_spec") else Target("")
    return Task(target, task.method_name, task.model_spec.signature_name)


def _spec(model: str, version: int, signature: str) -> Any:
    spec = model_pb2.ModelSpec(name=model, signature_name=signature)
    spec.version.value = version
    return spec


def _examples(given: Any) -> Array:
    """The serialized examples of an Input, each with the context in front: its own features win."""
    kind = given.WhichOneof("kind")
    context, examples = b"", []
    if kind == "example_list":
        examples = given.example_list.examples
    elif kind == "example_list_with_context":
        examples = given.example_list_with_context.examples
        context = given.example_list_with_context.context.SerializeToString()
    if not examples:
        raise invalid_argument("Input is empty.")
    serialized = np.empty(len(examples), dtype=object)
    for index, example in enumerate(examples):
        serialized[index] = context + example.SerializeToString()
    return serialized


def _fill_classes(result: Any, found: Classes) -> None:
    result.SetInParent()
    labels = None if found.labels is None else found.labels.tolist()
    scores = None if found.scores is None else found.scores.tolist()
    for row in range(found.shape[0]):
        of_example = result.classifications.add()
        for column in range(found.shape[1]):
            one = of_example.classes.add()
            if labels is not None:
                # The field is text; a label that is no UTF-8 can't be sent.
                one.label = labels[row][column].decode("utf-8", "replace")
            if scores is not None:
                one.score = scores[row][column]


def _fill_values(result: Any, values: Array) -> None:
    result.SetInParent()
    for value in values.tolist():
        result.regressions.add(value=value)
