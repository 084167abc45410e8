"""Exports and files through both clients and the command line: what is asked, and what lies on disk afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard import AsyncClient, Client, NotFound, Unreachable
from modelyard.cli import export as export_module
from shared.errors import InvalidInput
from shared.specs import parse_job
from tests.unit.modelyard.answers import JOB, NOW, client_for, job_body, problem

FILE = {"name": "export/model.onnx", "format": "onnx", "size_bytes": 3, "sha256": "a" * 64, "created_at": NOW,
        "url": "x"}  # fmt: skip


def _breaks_off() -> Iterator[bytes]:
    yield b"half"
    raise httpx.ReadError("gone")


def test_files_are_saved_when_they_are_whole(tmp_path: Path) -> None:
    client, seen = client_for(
        httpx.Response(200, json=job_body()),
        httpx.Response(200, content=b"abc"),
        httpx.Response(200, content=b"zip"),
    )
    job = client.jobs.get(JOB)
    assert job.download("export/größe 1.onnx", tmp_path / "new/model.onnx").read_bytes() == b"abc"
    assert seen[1].url.raw_path == b"/jobs/" + JOB.encode() + b"/artifacts/export/gr%C3%B6%C3%9Fe%201.onnx"
    assert job.download_all(tmp_path / "all.tar.gz", below="export").read_bytes() == b"zip"
    assert seen[2].url.path.endswith("/artifacts.tar.gz")
    assert dict(seen[2].url.params) == {"path": "export"}
    with pytest.raises(InvalidInput, match=r"\.zip or \.tar\.gz"):
        job.download_all(tmp_path / "all.rar")
    client.models.download("m", 3, tmp_path / "m.zip")
    assert seen[3].url.path == "/models/m/versions/3/download"


@pytest.mark.parametrize("answer", [problem(404), httpx.Response(200, content=_breaks_off())])
def test_nothing_is_left_of_a_download_that_failed(tmp_path: Path, answer: httpx.Response) -> None:
    client, _ = client_for(httpx.Response(200, json=job_body()), answer)
    with pytest.raises((NotFound, Unreachable)):
        client.jobs.get(JOB).download("x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_asyncio_client_does_the_same(tmp_path: Path) -> None:
    answers: list[httpx.Response] = [
        httpx.Response(200, json=job_body()),
        httpx.Response(200, json={"items": [FILE], "has_more": False}),
        httpx.Response(200, content=b"abc"),
        httpx.Response(200, content=b"tar"),
        httpx.Response(200, content=b"zip"),
    ]

    async def run() -> None:
        transport = httpx.MockTransport(lambda _: answers.pop(0))
        async with AsyncClient("http://test", transport=transport) as client:
            job = await client.jobs.get(JOB)
            page = await job.artifacts("export")
            saved = await job.download(page.items[0].name, tmp_path / "model.onnx")
            assert saved.read_bytes() == b"abc"
            assert (await job.download_all(tmp_path / "all.tar.gz")).read_bytes() == b"tar"
            assert (await client.models.download("m", 1, tmp_path / "m.zip")).read_bytes() == b"zip"

    asyncio.run(run())


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path.endswith("/artifacts"):
            return httpx.Response(200, json={"items": [FILE], "has_more": False})
        if "/artifacts" in request.url.path or request.url.path.endswith("/download"):
            return httpx.Response(200, content=b"abc")
        return httpx.Response(202 if request.method == "POST" else 200, json=job_body())

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(export_module, "connect", lambda url: Client("http://test", transport=transport))
    return seen


def test_the_command_line_makes_an_export_that_the_server_takes(requests: list[httpx.Request]) -> None:
    export_module.export("fashion:3", ["keras", "tflite:int8"], signature=["classify"], name="for phones")
    body: dict[str, Any] = json.loads(requests[0].content)
    assert body["from"] == {"model": "fashion", "version": 3}
    assert body["formats"] == ["keras", {"format": "tflite", "quantization": "int8"}]
    parse_job(body)
    export_module.export(JOB, checkpoint="best", publish="m")
    body = json.loads(requests[1].content)
    assert body["from"] == {"job": JOB, "checkpoint": "best"}
    parse_job(body)
    for source, formats in (("fashion", None), (JOB, ["onnx:int8"]), (None, None)):
        with pytest.raises(InvalidInput):
            export_module.export(source, formats)


def test_the_command_line_lists_and_downloads(
    requests: list[httpx.Request],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    export_module.artifacts(JOB, path="export", limit=10)
    assert "export/model.onnx" in capsys.readouterr().out
    export_module.download(JOB, "export/model.onnx")
    export_module.download(JOB, output=Path("all.tar.gz"), path="export")
    export_module.download("fashion:3")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "all.tar.gz", "fashion-3.zip"}
    with pytest.raises(InvalidInput):
        export_module.download("fashion:3", "x")
