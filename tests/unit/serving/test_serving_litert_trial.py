"""When a LiteRT model takes over: it must agree, and be sooner."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from services.serving.litert import LitertSignature, _try
from services.serving.signature import Array, Servable, Signature, TensorSpec

SPEC = TensorSpec("x:0", "float", (-1, 2))
SIGNATURE = Signature("serving_default", "m", {"x": SPEC}, {"y": SPEC})


class Runtime:
    """y = 2 x + ``off``, after ``seconds`` for each row."""

    alias = "x"
    most_rows = 256

    def __init__(self, seconds: Mapping[int, float], off: float = 0.0) -> None:
        self._seconds = seconds
        self._off = off

    def run(self, *arguments: Any) -> dict[str, Array]:
        x = arguments[-1]["x"]
        time.sleep(self._seconds.get(len(x), 0.0))
        return {"y": x * 2 + self._off}


def tried(tensorflow: Runtime, litert: Runtime) -> int:
    _try(cast("Servable", tensorflow), SIGNATURE, cast("LitertSignature", litert))
    return litert.most_rows


SLOW = {1: 0.02, 3: 0.02, 16: 0.02}


def test_it_takes_over_up_to_the_batch_at_which_it_is_sooner() -> None:
    assert tried(Runtime(SLOW), Runtime({})) == 256
    assert tried(Runtime({1: 0.02, 3: 0.02}), Runtime({16: 0.02})) == 3


def test_it_does_not_where_tensorflow_is_faster() -> None:
    with pytest.raises(ValueError, match="TensorFlow is faster"):
        tried(Runtime({}), Runtime(SLOW))


def test_it_does_not_where_it_answers_otherwise() -> None:
    with pytest.raises(ValueError, match="output y differs"):
        tried(Runtime({}), Runtime({}, off=0.01))
    with pytest.raises(ValueError, match="output y differs"):
        tried(Runtime({}), Runtime({}, off=float(np.nan)))
