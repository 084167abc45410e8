"""Opening a predict request without reading its numbers gives what a parser gives, or steps aside."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.envelope import KEPT_BYTES, SMALLEST, open_envelope
from services.api.errors import Malformed
from services.api.fields import BodyInvalid
from services.api.npy import as_npy, question_from_npy
from services.api.questions import Question, question_of
from shared.errors import InvalidInput

ROWS = [[float(number)] * 40 for number in range(30)]


def _text(data: dict[str, Any], indent: int | None = None) -> bytes:
    return json.dumps(data, indent=indent).encode()


def _sent(question: Question) -> Any:
    return json.loads(b"".join(question.body))


@pytest.mark.parametrize(
    "data",
    [
        {"model": "m", "instances": ROWS},
        {"instances": ROWS, "model": "m"},
        {"model": "m", "version": 3, "inputs": ROWS, "signature_name": "s"},
        {"label": "x", "model": "m", "instances": ROWS, "signature_name": None},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_the_value_is_cut_out_wherever_it_stands(data: dict[str, Any], indent: int | None) -> None:
    found = open_envelope(_text(data, indent))
    assert found is not None
    assert json.loads(bytes(found.value)) == ROWS
    assert {**found.fields, found.key: ROWS} == data
    for _ in range(2):
        sent = {"signature_name": data["signature_name"]} if data.get("signature_name") else {}
        assert _sent(question_of(_text(data, indent))) == {**sent, found.key: ROWS}


@pytest.mark.parametrize(
    "text",
    [
        _text({"model": "m", "instances": [{"b64": "A" * 3000}]}),
        _text({"model": "m", "instances": [{"x": ROWS}]}),
        _text({"model": "m", "instances": ROWS, "inputs": ROWS}),
        _text({"model": "m", "deeper": {"instances": ROWS}}),
        _text({"model": "m", "instances": "[" * 3000}),
        _text({"model": '"instances":[', "inputs": {"x": ROWS}}),
        _text({"model": "m", "instances": ROWS})[:-1],
        b'{"model": "m", "instances": ' + b"[1]" + b" " * 3000 + b'} , {"x": [2]}',
        b"[" * 5000,
        b"",
    ],
)
def test_what_only_a_parser_can_tell_is_left_to_one(text: bytes) -> None:
    assert open_envelope(text) is None


def test_a_small_body_is_not_worth_the_look() -> None:
    small = _text({"model": "m", "instances": [[1.0]]})
    assert len(small) < SMALLEST
    assert open_envelope(small) is None


@given(
    st.fixed_dictionaries(
        {"model": st.sampled_from(["m", "mødel", '"instances":[1]'])},
        optional={"version": st.integers(0, 9), "signature_name": st.text(max_size=5), "zzz": st.none()},
    ),
    st.recursive(
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63),
        lambda inner: st.lists(inner, max_size=4),
    ),
    st.integers(0, 3),
)
def test_whatever_is_opened_is_what_a_parser_reads(fields: dict[str, Any], value: Any, place: int) -> None:
    members = list(fields.items())
    members.insert(min(place, len(members)), ("instances", [value]))
    text = orjson.dumps(dict(members), option=orjson.OPT_INDENT_2) + b" " * SMALLEST
    found = open_envelope(text)
    if found is not None:
        assert found.fields == fields
        assert orjson.loads(bytes(found.value)) == orjson.loads(orjson.dumps([value]))


def test_both_ways_ask_the_same_question() -> None:
    data = {"model": "m", "label": "live", "signature_name": "s", "instances": ROWS}
    fast = question_of(_text(data), "k")
    slow = question_of(_text({**data, "instances": [*ROWS[:-1], [*ROWS[-1][:-1], "x"]]}), "k")
    assert (fast.model, fast.label, fast.signature_name, fast.key) == ("m", "live", "s", "k")
    assert (slow.model, slow.label, slow.signature_name, slow.key) == ("m", "live", "s", "k")
    assert _sent(fast) == {"signature_name": "s", "instances": ROWS}


@pytest.mark.parametrize(
    "extra", [{"version": 1, "label": "x"}, {"verison": 1}, {"version": -1}, {"model": 3}]
)
def test_the_envelope_is_checked_all_the_same(extra: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, BodyInvalid)):
        question_of(_text({"model": "m", "instances": ROWS, **extra}))


def test_equal_envelopes_hold_values_and_keys_of_their_own() -> None:
    for name in ("m", "m" * (KEPT_BYTES // 8)):
        for number, key in ((1.0, "a"), (2.0, None), (3.0, "b")):
            question = question_of(_text({"model": name, "label": "x", "instances": [[number] * 1000]}), key)
            assert (question.model, question.label, question.key) == (name, "x", key)
            assert _sent(question) == {"instances": [[number] * 1000]}
    for _ in range(2):
        with pytest.raises(InvalidInput):
            question_of(_text({"model": "m", "version": 1, "label": "x", "instances": ROWS}))


def test_the_value_itself_is_the_model_servers_to_check() -> None:
    broken = _text({"model": "m", "instances": ROWS}).replace(b"]]}", b"]}")
    assert b"".join(question_of(broken).body) == b'{"instances":' + _text({"": ROWS})[5:-2] + b"}"


def _npy(array: Any) -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "uint8", "bool", ">f4"])
def test_an_array_becomes_the_inputs(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    asked = question_from_npy(_npy(array), {"model": "m", "version": "3", "input": "image"}, None)
    assert (asked.model, asked.version) == ("m", 3)
    assert _sent(asked) == {"inputs": {"image": array.tolist()}}
    assert _sent(question_from_npy(_npy(array.T), {"model": "m"}, None)) == {"inputs": array.T.tolist()}


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", Malformed),
        (b"\x93NUMPY nonsense", Malformed),
        (
            _npy(np.array([object()], dtype=object)) if False else b"\x93NUMPY\x01\x00v\x00{'descr': '|O', ",
            Malformed,
        ),
        (_npy(np.array(["text"])), InvalidInput),
        (_npy(np.array([1.0, np.nan])), InvalidInput),
        (_npy(np.zeros(9))[:-8], Malformed),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        question_from_npy(raw, {"model": "m"}, None)


def test_names_in_the_query_are_checked() -> None:
    with pytest.raises(InvalidInput, match="modell"):
        question_from_npy(_npy(np.zeros(1)), {"modell": "m"}, None)
    with pytest.raises(BodyInvalid):
        question_from_npy(_npy(np.zeros(1)), {}, None)


def test_an_answer_can_be_an_array() -> None:
    import io

    def read(content: bytes) -> Any:
        return np.load(io.BytesIO(as_npy(content)), allow_pickle=False)

    assert read(b'{"outputs": [[0.5, 1.0]]}').dtype == np.float32
    assert read(b'{"predictions": [1, 2]}').tolist() == [1, 2]
    assert np.isnan(read(b'{"outputs": [NaN]}')).all()
    for content in (
        b'{"outputs": {"a": [1], "b": [2]}}',
        b'{"outputs": ["x"]}',
        b'{"predictions": [[1], [2, 3]]}',
    ):
        with pytest.raises(InvalidInput):
            as_npy(content)


def test_nan_and_infinity_are_numbers_in_small_bodies_as_in_large_ones_and_next_to_text() -> None:
    row = {"age": float("nan"), "income": float("-inf"), "color": "NaN, red"}
    question = question_of(_text({"model": "m", "instances": [row]}))
    sent = _sent(question)["instances"][0]
    assert str(sent) == str(row)
    assert b"NaN" in b"".join(question_of(_text({"model": "m", "instances": [[float("nan")] * 1000]})).body)
    assert _sent(question_of(_text({"model": "NaN", "instances": [["Infinity"]]}))) == {
        "instances": [["Infinity"]]
    }
    for broken in (b'{"model": "m", "instances": [NaN', b'{"model": NaN, "instances": [1]}', b"NaN NaN"):
        with pytest.raises((Malformed, BodyInvalid)):
            question_of(broken)
