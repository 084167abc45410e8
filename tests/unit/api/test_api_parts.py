"""Small parts by themselves: union tags, shapes in words, header filtering, form parsing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from services.api.errors import STATUS, Malformed, status_of
from services.api.fields import BodyInvalid, offending_fields, real_path
from services.api.multipart import FilePart
from services.api.shapes import expected_by, from_metadata
from services.api.upstream import forwarded, target_url
from shared import errors as shared_errors
from shared.errors import ModelyardError, StaleClaim
from shared.specs import TrainJob


@pytest.mark.parametrize(
    ("location", "data", "path"),
    [
        (("a", "b"), {"a": {"b": 1}}, ["a", "b"]),
        (("model", "builder", "units"), {"model": {"builder": "mlp", "units": 3}}, ["model", "units"]),
        (("model", "builder", "builder"), {"model": {"builder": "x"}}, ["model", "builder"]),
        (("model", "builder"), {"model": {"builder": "x"}}, ["model", "builder"]),
        (("fit", "learning_rate", "number"), {"fit": {"learning_rate": 1e9}}, ["fit", "learning_rate"]),
        (("fit", "learning_rate", "number"), {"fit": {"learning_rate": {}}}, ["fit", "learning_rate"]),
        (("a", "list[constrained-int]", 1), {"a": [1, 0]}, ["a", 1]),
        (
            ("model", "builder", "p", "u", 0),
            {"model": {"builder": "x", "p": {"u": "y"}}},
            ["model", "p", "u"],
        ),
        (("items", 1, "x"), {"items": [{}, {"x": 1}]}, ["items", 1, "x"]),
        (("labels", "a b", "[key]"), {"labels": {"a b": "c"}}, ["labels", "a b"]),
        (("train",), {"a": 1}, []),
        ((), [], []),
        (("a", "b"), None, ["a", "b"]),
        (("query", "limit"), None, ["limit"]),
        (("no", "such", "place"), 3, []),
    ],
)
def test_paths_name_what_the_client_wrote(location: tuple[Any, ...], data: Any, path: list[Any]) -> None:
    assert real_path(location, data) == path


@pytest.mark.parametrize(
    ("location", "data", "path"),
    [
        (("missing",), {}, ["missing"]),
        (("k", "k", "class"), {"k": {"k": {"c": 1}}}, ["k", "k", "class"]),
        (("dataset", "csv", "label"), {"dataset": {"csv": "x"}}, ["dataset", "label"]),
        (("cs", 0, "Log", "params", "filename"), {"cs": [{"name": "Log"}]}, ["cs", 0, "params", "filename"]),
        (("cs", 0, "Log", "params", "filename"), {"cs": ["Log"]}, ["cs", 0, "params", "filename"]),
        (("label", "label", "label"), {"label": {}}, ["label", "label"]),
    ],
)
def test_paths_name_the_key_that_is_missing(location: tuple[Any, ...], data: Any, path: list[Any]) -> None:
    assert real_path(location, data, missing=True) == path


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"strategy": {}}, "strategy.kind"),
        ({"devices": {"virtual_devices": 0}}, "devices.virtual_devices"),
        ({"fit": {"callbacks": ["ModelCheckpoint"]}}, "fit.callbacks.0.params.filepath"),
        ({"fit": {"deterministic": True}, "strategy": {"kind": "parameter_server"}}, "fit.deterministic"),
    ],
)
def test_what_is_wrong_with_a_job_has_its_field(part: dict[str, Any], field: str) -> None:
    job = {"model": {"builder": "mlp"}, "dataset": {"npz": "x"}, **part}
    with pytest.raises(ValidationError) as refused:
        TrainJob.model_validate(job)
    assert offending_fields(BodyInvalid(refused.value, job))[0]["field"] == field


@pytest.mark.parametrize(
    ("signatures", "name", "words"),
    [
        ({}, None, None),
        ({"serving_default": {"inputs": {"x": {"dtype": "float32", "shape": [-1, None, 3]}}}}, None,
         "serving_default takes x: float32 of shape [any, any, 3]."),
        ({"serving_default": {"inputs": {"x": {"dtype": "int64", "shape": None}, "a": "text"}}}, None,
         "serving_default takes a: text; x: int64 of any shape."),
        ({"b": {}, "a": {}}, None, "The version has the signatures a, b."),
        ({"a": {"inputs": {}}}, "a", None),
    ],
)  # fmt: skip
def test_signatures_in_words(signatures: dict[str, Any], name: str | None, words: str | None) -> None:
    assert expected_by(signatures, name) == words


def test_signatures_from_the_model_servers_own_description() -> None:
    tensor = {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1"}, {"size": "3"}], "unknown_rank": False},
    }
    anything = {"dtype": "DT_STRING", "tensor_shape": {"dim": [], "unknown_rank": True}}
    found = from_metadata(
        {
            "metadata": {
                "signature_def": {
                    "signature_def": {
                        "serving_default": {"inputs": {"x": tensor, "y": anything}},
                        "__saved_model_init_op": {"inputs": {}},
                    }
                }
            }
        }
    )
    words = "serving_default takes x: float32 of shape [any, 3]; y: string of any shape."
    assert expected_by(found, None) == words
    assert from_metadata({"error": "x"}) == from_metadata([]) == {}


def test_every_error_has_a_status() -> None:
    for kind in vars(shared_errors).values():
        if isinstance(kind, type) and issubclass(kind, ModelyardError):
            assert 400 <= status_of(kind("x")) <= 599
    assert status_of(StaleClaim("x")) == 409
    assert STATUS[ModelyardError] == 500


def test_headers_of_one_connection_are_not_forwarded() -> None:
    headers = [
        (b"x-one", b"1"),
        (b"connection", b"close, X-One"),
        (b"te", b"x"),
        (b"x-two", b"2"),
        (b"host", b"h"),
    ]
    assert forwarded(headers, frozenset({b"host"})) == [(b"x-two", b"2")]


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://h:1", "http://h:1/v1/a%2Fb?x=%20"),
        ("http://h:1/", "http://h:1/v1/a%2Fb?x=%20"),
        ("http://h:1/below/", "http://h:1/below/v1/a%2Fb?x=%20"),
    ],
)
def test_the_path_keeps_its_own_encoding(base: str, url: str) -> None:
    assert str(target_url(httpx.URL(base), b"/v1/a%2Fb", b"x=%20")) == url


_FORM = (
    b"preamble\r\n--B\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nplants\r\n"
    b"--B\r\nContent-Type: text/csv\r\ncontent-disposition: form-data; name=file; filename=\"a \\\"b\\\".csv\"\r\n\r\n"
    b"a,b\r\n--C\r\n--\r\n1,2\r\n--B--\r\nepilogue"
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_a_form_is_read_whatever_way_it_is_cut(size: int) -> None:
    async def body() -> AsyncIterator[bytes]:
        content = _FORM.removeprefix(b"preamble\r\n").removesuffix(b"epilogue")
        for start in range(0, len(content), size):
            yield content[start : start + size]

    async def read() -> tuple[bytes, FilePart]:
        part = FilePart("multipart/form-data; boundary=B", body(), "file")
        return b"".join([chunk async for chunk in part]), part

    content, part = asyncio.run(read())
    assert content == b"a,b\r\n--C\r\n--\r\n1,2"
    assert part.fields == {"name": "plants"}
    assert part.file_name == 'a "b".csv'


def test_a_form_with_too_much_text_is_refused() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 1000

    async def read() -> None:
        async for _ in FilePart("multipart/form-data; boundary=B", body(), "file"):
            pass

    with pytest.raises(Malformed):
        asyncio.run(read())


def test_use_cases_know_nothing_of_http() -> None:
    code = (
        "import services.api.submission, services.api.data_checks, services.api.uploads, sys\n"
        "sys.exit(bool({'fastapi', 'starlette'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
