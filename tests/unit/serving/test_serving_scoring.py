"""Classify and regress without TensorFlow: examples to messages, outputs to answers."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from services.serving import scoring
from services.serving.errors import ServingError
from services.serving.examples import decode_examples
from services.serving.json_reader import read_json
from services.serving.signature import Array, Signature, TensorSpec


class Scripted:
    """A servable that answers what it is told to."""

    def __init__(self, **outputs: Array) -> None:
        self.signatures: Mapping[str, Signature] = MappingProxyType({})
        self.signature_def_json: Mapping[str, Any] = MappingProxyType({})
        self._outputs = outputs

    def run(self, signature: Signature, inputs: Mapping[str, Array], **_: Any) -> dict[str, Array]:
        assert list(inputs) == ["inputs"]
        return self._outputs

    def close(self) -> None:
        pass


def signature(*outputs: str, inputs: tuple[str, ...] = ("inputs",), dtype: str = "string") -> Signature:
    spec = TensorSpec("t:0", dtype, None)
    return Signature("s", "", dict.fromkeys(inputs, spec), dict.fromkeys(outputs, spec))


TWO = np.array([b"", b""], dtype=object)


def test_an_example_is_written_in_protobufs_wire_format() -> None:
    (message,) = decode_examples({"examples": [{"x": 2.0}]}).tolist()
    # Example{features{feature{key: "x" value{float_list{value: [2.0]}}}}}
    floats = b"\x0a\x04" + struct.pack("<f", 2.0)
    entry = b"\x0a\x01x" + b"\x12\x08" + b"\x12\x06" + floats
    assert message == b"\x0a\x0f" + b"\x0a\x0d" + entry


def test_the_context_comes_first_so_that_the_example_wins() -> None:
    (alone,) = decode_examples({"examples": [{"x": 1}]}).tolist()
    (context,) = decode_examples({"examples": [{"y": "a"}]}).tolist()
    (both,) = decode_examples({"context": {"y": "a"}, "examples": [{"x": 1}]}).tolist()
    assert both == context + alone


def test_of_a_feature_that_is_there_twice_the_last_one_counts() -> None:
    body = b'{"examples": [{"x": 1.0, "y\\u0000z": [1], "x": 2.0}]}'
    (twice,) = decode_examples(read_json(body))
    (once,) = decode_examples(read_json(b'{"examples": [{"x": 2.0, "y": 1}]}'))
    assert twice == once


@pytest.mark.parametrize(
    "values", [[1, True, -1], [2**63 - 1, -(2**63)], [0.5, math.inf, 1e300], ["a", {"b64": "AA=="}], []]
)
def test_lists_of_one_kind_are_accepted(values: list[Any]) -> None:
    assert decode_examples({"examples": [{"x": values}]}).shape == (1,)


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        (
            {"examples": [{"f": [1, {"b64": "Y"}]}]},
            "Unexpected element type in feature: f expecting type: int64",
        ),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"x": [1, 1.5]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": [1.5, 1]}]}, "Unexpected element type in feature: x expecting type: float"),
        ({"examples": [{"x": ["a", 1]}]}, "Unexpected element type in feature: x expecting type: bytes"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": 2**63}]}, "Feature: x has uint64_t element. Only int64_t is supported."),
    ],
)
def test_unusable_examples(document: dict[str, Any], part: str) -> None:
    with pytest.raises(ServingError) as caught:
        decode_examples(document)
    assert part in caught.value.message


def test_classes_and_scores_become_pairs() -> None:
    servable = Scripted(
        classes=np.array([[b"a", b"b"], [b"c", b"d"]], object),
        scores=np.array([[1, 0], [0.5, 0.25]], np.float32),
    )
    answer = json.loads(scoring.classes_json(scoring.classify(servable, signature("classes", "scores"), TWO)))
    assert answer == {"results": [[["a", 1.0], ["b", 0.0]], [["c", 0.5], ["d", 0.25]]]}


def test_scores_alone_have_empty_labels_and_classes_alone_zero_scores() -> None:
    scores = Scripted(scores=np.array([[1], [2]], np.float32))
    assert json.loads(scoring.classes_json(scoring.classify(scores, signature("scores"), TWO))) == {
        "results": [[["", 1.0]], [["", 2.0]]]
    }
    classes = Scripted(classes=np.array([[b"a"], [b"b"]], object))
    assert json.loads(scoring.classes_json(scoring.classify(classes, signature("classes"), TWO))) == {
        "results": [[["a", 0.0]], [["b", 0.0]]]
    }
    none = Scripted(scores=np.zeros((2, 0), np.float32))
    assert json.loads(scoring.classes_json(scoring.classify(none, signature("scores"), TWO))) == {
        "results": [[], []]
    }


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_regress_is_a_list_of_numbers(shape: tuple[int, ...]) -> None:
    servable = Scripted(outputs=np.array([2.5, 3], np.float32).reshape(shape))
    assert json.loads(scoring.values_json(scoring.regress(servable, signature("outputs"), TWO))) == {
        "results": [2.5, 3.0]
    }


@pytest.mark.parametrize(
    ("asked", "outputs", "part"),
    [
        (signature("scores", inputs=("a", "b")), {}, "Expected one input Tensor."),
        (signature("scores", inputs=("x",)), {}, "No classification inputs found in SignatureDef"),
        (signature("scores", dtype="float"), {}, "Expects arg[0] to be float but string is provided"),
        (signature("y"), {}, 'at least one of "classes" or "scores"'),
        (signature("a", "b", "c"), {}, "Expected one or two output Tensors, found 3"),
        (signature("scores"), {"scores": np.zeros(2, np.float32)}, "[batch_size num_classes] but got [2]"),
        (
            signature("scores"),
            {"scores": np.zeros((3, 1), np.float32)},
            "Expected scores output batch size of 2",
        ),
        (
            signature("scores"),
            {"scores": np.zeros((2, 1))},
            "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
        ),
    ],
)
def test_what_can_not_classify(asked: Signature, outputs: dict[str, Array], part: str) -> None:
    with pytest.raises(ServingError) as caught:
        scoring.classify(Scripted(**outputs), asked, TWO)
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("asked", "values", "part"),
    [
        (signature("outputs", "more"), None, "Expected one output Tensor."),
        (signature("y"), None, "No regression outputs found in SignatureDef"),
        (
            signature("outputs"),
            np.zeros((2, 2), np.float32),
            "either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (
            signature("outputs"),
            np.zeros(3, np.float32),
            "Input batch size did not match output batch size: 2 vs. 3",
        ),
    ],
)
def test_what_can_not_regress(asked: Signature, values: Array | None, part: str) -> None:
    with pytest.raises(ServingError) as caught:
        scoring.regress(Scripted(**({} if values is None else {"outputs": values})), asked, TWO)
    assert part in caught.value.message


def test_an_unknown_signature() -> None:
    with pytest.raises(ServingError, match="No signature was found with the name: s"):
        scoring.find_signature({}, "s")
