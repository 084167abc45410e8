"""Connections passed on from one server to another, as a fleet's processes do it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
import uvloop

from services.api.spread import Spread, lay_out
from tests.conftest import free_port

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class _Server(uvicorn.Server):
    member: _Member

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.member.spread.join(self)
        self.member.joined.set()


class _Member:
    """A server that answers with its number."""

    def __init__(
        self, folder: Path, slot: int, size: int, loops: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        self.port = free_port()
        self.spread = Spread(folder, slot, size)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-length", b"1")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"%d" % slot})

        config = uvicorn.Config(
            app, port=self.port, http=cast(Any, self.spread.wire), lifespan="off", log_config=None,
            ws="none",
        )  # fmt: skip
        self.server = _Server(config)
        self.server.member = self
        self._loop: asyncio.AbstractEventLoop | None = None
        self.joined = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(loops,))
        self._thread.start()
        assert self.joined.wait(30)

    def _run(self, loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=loops) as runner:
            runner.run(self.main())

    async def main(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.server.serve()

    def call(self, what: Any) -> None:
        assert self._loop is not None
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (what(), done.set()))
        assert done.wait(30)

    def stop(self) -> None:
        self.call(self.spread.leave)
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def members(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[_Member]]:
    """Two of a fleet of three; the third never starts."""
    lay_out(tmp_path, 3)
    found = [_Member(tmp_path, slot, 3, request.param) for slot in range(2)]
    yield found
    for member in found:
        member.stop()


def _asked(port: int, clients: list[socket.socket]) -> str:
    """Who answers on one more connection."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    clients.append(client)
    return _answer(client)


def _answer(client: socket.socket) -> str:
    client.sendall(REQUEST)
    answer = b""
    while not answer.endswith((b"\r\n\r\n0", b"\r\n\r\n1")):
        part = client.recv(1000)
        assert part
        answer += part
    return answer[-1:].decode()


def test_whoever_has_more_passes_new_connections_on(members: list[_Member]) -> None:
    clients: list[socket.socket] = []
    try:
        assert [_asked(members[0].port, clients) for _ in range(4)] == ["0", "1", "0", "1"]
        assert [_asked(members[1].port, clients) for _ in range(4)] == ["1", "0", "1", "0"]
        assert [_answer(client) for client in clients] == ["0", "1", "0", "1", "1", "0", "1", "0"], (
            "they stay"
        )
        for client in clients[::2]:
            client.close()
    finally:
        for client in clients:
            client.close()


def test_nothing_is_passed_on_to_one_that_leaves_or_is_gone(members: list[_Member]) -> None:
    clients: list[socket.socket] = []
    try:
        members[1].call(members[1].spread.leave)
        assert {_asked(members[0].port, clients) for _ in range(4)} == {"0"}
        # as after a crash: its row says that it has none, and nobody listens
        rows = members[1].spread._rows
        rows[1 * 4] = 0
        assert {_asked(members[0].port, clients) for _ in range(4)} == {"0"}
    finally:
        for client in clients:
            client.close()
