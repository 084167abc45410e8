"""Predictions that are answered on the connection's own thread."""

from __future__ import annotations

import gzip
from typing import Any, cast

import pytest

from services.serving.errors import invalid_argument
from services.serving.inference import Target
from services.serving.plain_predict import Answer as Predicted
from services.serving.plain_predict import PlainPredictions
from services.serving.quick import QuickPredictions
from services.serving.telemetry import Telemetry
from services.serving.trace import Trace
from shared.wire import Answer, parse_head


class _Plain:
    """Answers with so many bytes; 0: it would take longer."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.asked: list[Target] = []

    def predict(self, target: Target, body: bytes, trace: Trace, *, only_quick: bool) -> Predicted | None:
        assert only_quick
        self.asked.append(target)
        trace.version, trace.signature = 3, "serving_default"
        return Predicted(b"x" * self._size, 3) if self._size else None

    def predict_npy(
        self, target: Target, body: bytes, query: str, trace: Trace, **_: Any
    ) -> Predicted | None:
        raise invalid_argument("no NumPy file")


def _ask(quick: QuickPredictions, target: bytes, *headers: bytes) -> Answer | None:
    head = parse_head(b"\r\n".join([b"POST %s HTTP/1.1" % target, b"Content-Length: 2", *headers, b"", b""]))
    assert head is not None
    if not quick.takes(head):
        return None
    answers: list[Answer] = []
    taken = quick.answer(head, b"{}", answers.append, cast(Any, None))
    assert taken == bool(answers)
    return answers[0] if answers else None


def _quick(size: int) -> tuple[QuickPredictions, _Plain]:
    plain = _Plain(size)
    return QuickPredictions(cast(PlainPredictions, plain), Telemetry(), [(b"a", b"b")]), plain


def test_versions_labels_and_names_are_told_apart() -> None:
    quick, plain = _quick(10)
    for where in (b"m", b"m/versions/3", b"m/labels/stable", b"a%2Fb"):
        answer = _ask(quick, b"/v1/models/%s:predict" % where, b"X-Request-Id: r")
        assert answer is not None
        assert answer.headers == [
            (b"content-type", b"application/json"),
            (b"a", b"b"),
            (b"x-request-id", b"r"),
            (b"x-model-version", b"3"),
        ]
    assert plain.asked == [Target("m"), Target("m", 3), Target("m", None, "stable"), Target("a/b")]


@pytest.mark.parametrize(
    ("target", "header"),
    [
        (b"/v1/models/m:classify", b"A: b"),
        (b"/v1/models/m/metadata", b"A: b"),
        (b"/v1/models/m:predict?x=1", b"A: b"),
        (b"/v1/models/m:predict?", b"A: b"),
        (b"/v1/models/m/versions/99999999999999999999999:predict", b"A: b"),
        (b"/v1/models/m:predict", b"Content-Encoding: gzip"),
        (b"/v1/models/m:predict", b"Content-Type: application/x-npy"),
        (b"/predict", b"A: b"),
    ],
)
def test_all_else_is_left_alone(target: bytes, header: bytes) -> None:
    assert _ask(_quick(10)[0], target, header) is None


def test_what_takes_longer_is_left_alone() -> None:
    assert _ask(_quick(0)[0], b"/v1/models/m:predict") is None


@pytest.mark.parametrize(
    ("size", "accept", "packed"),
    [
        (10, b"gzip", False),
        (20_000, b"gzip", True),
        (20_000, b"gzip;q=0", False),
        (20_000, b"identity", False),
    ],
)
def test_long_answers_are_packed_for_who_asks(size: int, accept: bytes, packed: bool) -> None:
    answer = _ask(_quick(size)[0], b"/v1/models/m:predict", b"Accept-Encoding: " + accept)
    assert answer is not None
    assert ((b"content-encoding", b"gzip") in answer.headers) == packed
    assert (gzip.decompress(answer.body) if packed else answer.body) == b"x" * size


def test_very_long_answers_are_packed_elsewhere() -> None:
    assert _ask(_quick(200_000)[0], b"/v1/models/m:predict", b"Accept-Encoding: gzip") is None
    assert _ask(_quick(200_000)[0], b"/v1/models/m:predict") is not None
