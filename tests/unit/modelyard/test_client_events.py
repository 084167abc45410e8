"""The live stream: reading it, and going on after it broke."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import modelyard
from modelyard import AsyncClient, Client, Ended, Event, Progress
from modelyard.client.events import MAX_FRUITLESS
from modelyard.client.sse import Decoder, Message
from tests.unit.modelyard.answers import JOB, NOW, job_body, problem


def decode(text: str, size: int) -> list[Message]:
    decoder, raw = Decoder(), text.encode()
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    return [message for piece in pieces for message in decoder.feed(piece)]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("data: a\n\n", [Message("message", "a", None)]),
        ("id: 3\nevent: epoch\ndata: {}\n\n", [Message("epoch", "{}", "3")]),
        ("data:a\ndata: b\n\n", [Message("message", "a\nb", None)]),
        (": keep-alive\n\ndata: x\n\n", [Message("message", "x", None)]),
        ("event: nothing\n\ndata: x\n\n", [Message("message", "x", None)]),
        ("data: cut o", []),
        ("data: cut off by the end\n", []),
        (
            "id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n",
            [Message("message", "a", "1"), Message("message", "b", None)],
        ),
        ("data: Å\u2028\x85é\n\n", [Message("message", "Å\u2028\x85é", None)]),
        ("data: a: b\n\n", [Message("message", "a: b", None)]),
        ("retry: 10\nunknown: 1\ndata\n\n", [Message("message", "", None)]),
    ],
)
def test_streams_are_read_as_the_standard_says(text: str, messages: list[Message], size: int) -> None:
    assert decode(text, size) == messages


def stored(seq: int, kind: str, data: dict[str, Any]) -> str:
    body = json.dumps({"seq": seq, "at": NOW, "type": kind, "data": data})
    return f"id: {seq}\nevent: {kind}\ndata: {body}\n\n"


PROGRESS = "event: progress\ndata: " + json.dumps(
    {"epoch": 1, "epochs": 2, "step": 3, "steps": 4, "fraction": 0.375, "eta_seconds": 1.5,
     "steps_per_second": 2.0, "metrics": {"loss": 0.5}}
) + "\n\n"  # fmt: skip
END = f"event: end\ndata: {json.dumps(job_body(state='succeeded'))}\n\n"


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, which may break off."""

    def __init__(self, *pieces: str, breaks: bool) -> None:
        self.pieces, self.breaks = pieces, breaks

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            yield piece.encode()
        if self.breaks:
            raise httpx.ReadError("connection lost")

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


def server(streams: list[Pieces | Exception | httpx.Response]) -> tuple[httpx.MockTransport, list[str]]:
    """Answers each request for events with the next stream; keeps the Last-Event-ID it was asked from."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=job_body(state="succeeded" if asked else "running"))
        assert request.headers["accept"] == "text/event-stream"
        asked.append(request.headers["last-event-id"])
        stream = streams[min(len(asked), len(streams)) - 1]
        if isinstance(stream, Exception):
            raise stream
        if isinstance(stream, httpx.Response):
            return httpx.Response(stream.status_code, content=stream.content, headers=stream.headers)
        return httpx.Response(200, stream=stream, headers={"content-type": "text/event-stream"})

    return httpx.MockTransport(handle), asked


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.client.events.Following.pause_after", _without_time(), raising=True)


def _without_time() -> Any:
    from modelyard.client.events import Following

    real = Following.pause_after

    def pause(self: Any, failure: Exception | None) -> float:
        return 0.0 * real(self, failure)

    return pause


BROKEN: list[Any] = [
    Pieces(stored(1, "state", {"to": "queued"}), stored(2, "state", {"to": "running"})[:25], breaks=True),
    httpx.ConnectError("restarting"),
    problem(503),
    Pieces(stored(2, "state", {"to": "running"}), PROGRESS, breaks=False),
    # a server that sends an event again
    Pieces(stored(2, "state", {"to": "running"}), stored(3, "epoch", {"epoch": 1, "metrics": {"loss": 0.1}}), END,
           breaks=False),
]  # fmt: skip


def check(events: list[Any], asked: list[str]) -> None:
    assert [event.seq for event in events if isinstance(event, Event)] == [1, 2, 3]
    assert [type(event) for event in events] == [Event, Event, Progress, Event, Ended]
    assert asked == ["0", "1", "1", "1", "2"]
    first, second, progress, epoch, end = events
    assert (first.state, second.state) == ("queued", "running")
    assert (progress.step, progress.metrics) == (3, {"loss": 0.5})
    assert (epoch.epoch, epoch.metrics, epoch.state, epoch.stage) == (1, {"loss": 0.1}, None, None)
    assert end.job.state == "succeeded"


def test_a_broken_stream_goes_on_without_a_gap_or_a_repeat() -> None:
    transport, asked = server(BROKEN)
    with Client("http://test", transport=transport) as client:
        check(list(client.jobs.get(JOB).follow()), asked)


def test_the_async_client_follows_alike() -> None:
    transport, asked = server(BROKEN)

    async def follow() -> list[Any]:
        async with AsyncClient("http://test", transport=transport) as client:
            job = await client.jobs.get(JOB)
            return [event async for event in job.follow()]

    check(asyncio.run(follow()), asked)


def test_following_gives_up_on_a_server_that_stays_away() -> None:
    transport, asked = server([httpx.ConnectError("gone")])
    with Client("http://test", transport=transport) as client, pytest.raises(modelyard.Unreachable):
        list(client.jobs.get(JOB).follow())
    assert len(asked) == MAX_FRUITLESS


def test_following_a_job_that_is_not_there_fails_at_once() -> None:
    transport, asked = server([problem(404, "job_not_found")])
    with Client("http://test", transport=transport) as client, pytest.raises(modelyard.NotFound):
        list(client.jobs.get(JOB).follow(after=7))
    assert asked == ["7"]


def test_a_log_goes_on_at_the_byte_where_it_broke() -> None:
    whole = "Ångström 1\nline 2\n".encode()
    offsets: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/logs"):
            return httpx.Response(200, json=job_body(state="succeeded"))
        offsets.append(int(request.url.params["offset"]))
        if len(offsets) == 1:
            # broken off inside a character
            return httpx.Response(200, stream=_Raw(whole[:1], breaks=True))
        return httpx.Response(200, stream=_Raw(whole[offsets[-1] :], breaks=False))

    with Client("http://test", transport=httpx.MockTransport(handle)) as client:
        assert "".join(client.jobs.get(JOB).follow_logs()) == whole.decode()
    assert offsets == [0, 1]


class _Raw(httpx.SyncByteStream):
    def __init__(self, body: bytes, *, breaks: bool) -> None:
        self.body, self.breaks = body, breaks

    def __iter__(self) -> Iterator[bytes]:
        yield self.body
        if self.breaks:
            raise httpx.ReadError("connection lost")
