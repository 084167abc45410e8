"""Which made-up requests a version gets, and which answers fail its load."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from services.serving.errors import Code, ServingError
from services.serving.preparation import prepared
from services.serving.signature import Array, Signature, TensorSpec
from services.serving.telemetry import Telemetry
from services.serving.trial import try_signatures

OUT = {"y": TensorSpec("y:0", "float", None)}


class Recording:
    """Notes what it is asked, and answers ``error`` if there is one."""

    def __init__(self, inputs: Mapping[str, TensorSpec], error: ServingError | None = None) -> None:
        signature = Signature("s", "", inputs, OUT)
        init = Signature("init", "", {}, {"op": TensorSpec("", "invalid", None)})
        self.signatures: Mapping[str, Signature] = MappingProxyType({"s": signature, "init": init})
        self.signature_def_json: Mapping[str, Any] = MappingProxyType({})
        self.asked: list[Mapping[str, Array]] = []
        self.closed = False
        self._error = error

    def run(self, signature: Signature, inputs: Mapping[str, Array], **_: Any) -> dict[str, Array]:
        assert signature.name == "s"
        self.asked.append(inputs)
        if self._error is not None:
            raise self._error
        return {}

    def close(self) -> None:
        self.closed = True


def test_unknown_sizes_are_one_and_values_zero_or_empty() -> None:
    servable = Recording(
        {
            "image": TensorSpec("i:0", "float", (-1, 2, 3)),
            "scalar": TensorSpec("n:0", "int32", ()),
            "half": TensorSpec("h:0", "half", (1,)),
            "text": TensorSpec("t:0", "string", (-1,)),
            "brain": TensorSpec("b:0", "bfloat16", (2,)),
        }
    )
    try_signatures(servable)
    (asked,) = servable.asked
    assert {alias: (array.shape, array.dtype.name) for alias, array in asked.items()} == {
        "image": ((1, 2, 3), "float32"),
        "scalar": ((), "int32"),
        "half": ((1,), "float16"),
        "text": ((1,), "object"),
        "brain": ((2,), "bfloat16"),
    }
    assert asked["text"].tolist() == [b""]
    assert not np.any(asked["image"])


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("", "float", (-1,)),  # sparse
        TensorSpec("r:0", "resource", ()),
        TensorSpec("u:0", "float", None),  # a wrong rank can end the process
        TensorSpec("x:0", "float", (100_000, 100_000)),
    ],
)
def test_what_can_not_be_made_up_is_not_tried(spec: TensorSpec) -> None:
    servable = Recording({"x": spec})
    try_signatures(servable)
    assert servable.asked == []


@pytest.mark.parametrize("code", list(Code))
def test_only_errors_of_a_version_that_misses_something_fail_its_load(code: Code) -> None:
    """tensorflow/serving issues 1086 and 572: such versions were announced as loaded."""
    servable = Recording({"x": TensorSpec("x:0", "float", (-1,))}, ServingError(code, "why"))
    load = prepared(lambda _: servable, [lambda loaded, _: try_signatures(loaded)], Telemetry())
    if code in (Code.FAILED_PRECONDITION, Code.NOT_FOUND, Code.INTERNAL, Code.DATA_LOSS):
        with pytest.raises(ServingError, match="Trial request to signature s failed: why") as caught:
            load("/m/1")
        assert caught.value.code is code
        assert servable.closed
    else:
        assert load("/m/1") is servable
        assert not servable.closed


def test_a_file_that_a_made_up_request_does_not_name_is_no_fault_of_the_version() -> None:
    error = ServingError(Code.NOT_FOUND, "{{function_node read}} ; No such file or directory")
    try_signatures(Recording({"x": TensorSpec("x:0", "string", (-1,))}, error))
