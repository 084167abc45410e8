"""The pool of connections, against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.api.keep_alive import JSON, KeepAlivePool, Reply

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\n\r\nhi"


def run(
    handler: Handler,
    scenario: Callable[[KeepAlivePool], Awaitable[None]],
    prefix: str = "",
    seconds: float = 60.0,
) -> int:
    """Connections that the server saw."""

    async def main() -> int:
        count = 0

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            try:
                await handler(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(counted, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pool = KeepAlivePool(f"http://127.0.0.1:{port}{prefix}", seconds=seconds)
        await scenario(pool)
        await pool.aclose()
        server.close()
        return count

    return asyncio.run(main())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request with its body; empty at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = await reader.readline()
        if not line:
            return b""
        head += line
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
    return head + await reader.readexactly(length)


def answering(*answers: bytes, seen: list[bytes] | None = None) -> Handler:
    """A handler that gives these answers on each connection, then closes it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            request = await read_request(reader)
            if not request:
                return
            if seen is not None:
                seen.append(request)
            writer.write(answer)
            await writer.drain()

    return handle


async def _post(pool: KeepAlivePool, body: bytes = b"{}") -> Reply:
    return await pool.send(b"POST", b"/x", JSON, (body[:1], memoryview(body)[1:]))


def test_one_connection_serves_many_requests() -> None:
    seen: list[bytes] = []

    async def scenario(pool: KeepAlivePool) -> None:
        for number in range(3):
            reply = await _post(pool, b"%d" % number)
            assert (reply.status, reply.content) == (200, b"hi")
            assert reply.headers[1:] == [(b"x-a", b"1"), (b"x-a", b"2")]
            assert (reply.header(b"x-a"), reply.header(b"x-b")) == (b"1", b"")

    assert run(answering(OK, OK, OK, seen=seen), scenario, prefix="/below/") == 1
    assert seen[2].startswith(b"POST /below/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert seen[2].endswith(b"content-type: application/json\r\nContent-Length: 1\r\n\r\n2")


def test_a_connection_that_died_idling_is_replaced() -> None:
    async def scenario(pool: KeepAlivePool) -> None:
        for _ in range(4):
            assert (await _post(pool)).content == b"hi"
            await asyncio.sleep(0.01)

    assert run(answering(OK), scenario) == 4


def test_a_connection_that_dies_at_the_next_request_is_replaced_once() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)  # and no answer

    async def scenario(pool: KeepAlivePool) -> None:
        for _ in range(3):
            assert (await _post(pool)).content == b"hi"

    assert run(handle, scenario) == 3


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi", b"nonsense\r\n\r\n", b"\x00\xff"]
)
def test_an_answer_that_never_completes_is_an_error(answer: bytes) -> None:
    async def scenario(pool: KeepAlivePool) -> None:
        with pytest.raises(ConnectionError):
            await _post(pool)

    assert run(answering(answer), scenario) == 1


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n", b"hiyou"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""),
    ],
)
def test_answers_come_in_many_forms(answer: bytes, content: bytes) -> None:
    async def scenario(pool: KeepAlivePool) -> None:
        for _ in range(2):
            assert (await _post(pool)).content == content

    run(answering(answer, answer), scenario)


def test_a_request_that_was_given_up_does_not_leave_its_answer_to_the_next() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            body = request[-1:]
            if body == b"1":
                await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body)

    async def scenario(pool: KeepAlivePool) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await _post(pool, b"1")
        assert (await _post(pool, b"2")).content == b"2"
        assert [
            reply.content for reply in await asyncio.gather(*(_post(pool, b"%d" % n) for n in range(9)))
        ] == [b"%d" % n for n in range(9)]

    run(handle, scenario)


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
def test_an_answer_may_come_in_pieces(answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            for start in range(len(answer)):
                writer.write(answer[start : start + 1])
                await writer.drain()
                await asyncio.sleep(0)

    async def scenario(pool: KeepAlivePool) -> None:
        for _ in range(3):
            assert (await _post(pool)).content == b"hi"

    assert run(handle, scenario) == 1


def test_a_large_answer_and_a_large_request_arrive_whole() -> None:
    body = bytes(range(256)) * 20_000

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            content = request.partition(b"\r\n\r\n")[2]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
            await writer.drain()

    async def scenario(pool: KeepAlivePool) -> None:
        for _ in range(2):
            reply = await _post(pool, body)
            assert reply.content == body

    assert run(handle, scenario) == 1


@pytest.mark.parametrize("more", [OK, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"junk"])
@pytest.mark.parametrize(
    "answer", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_what_follows_an_answer_is_nobodys(answer: bytes, more: bytes, pause: float) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if pause:
            writer.write(answer)
            await asyncio.sleep(pause)
            writer.write(more)
        else:
            writer.write(answer + more)
        assert await reader.read() == b"", "nothing is asked on this connection any more"

    async def scenario(pool: KeepAlivePool) -> None:
        for _ in range(3):
            reply = await _post(pool)
            assert (reply.status, reply.content) == (200, b"hi")
            await asyncio.sleep(2 * pause + 0.05)

    assert run(handle, scenario) == 3


def test_an_answer_that_is_late_is_an_error_for_its_own_request_alone() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            if request.endswith(b"1"):
                await reader.read()  # never
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + request[-1:])

    async def scenario(pool: KeepAlivePool) -> None:
        async def prompt() -> None:
            for _ in range(20):
                assert (await _post(pool, b"2")).content == b"2"
                await asyncio.sleep(0.01)

        async def late() -> None:
            with pytest.raises(TimeoutError):
                await _post(pool, b"1")

        await asyncio.gather(late(), prompt(), late())
        assert (await _post(pool, b"3")).content == b"3"

    run(handle, scenario, seconds=2.0)


def test_requests_wait_for_a_connection_when_all_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.keep_alive.MAX_CONNECTIONS", 2)

    async def scenario(pool: KeepAlivePool) -> None:
        replies = await asyncio.gather(*(_post(pool) for _ in range(6)))
        assert [reply.content for reply in replies] == [b"hi"] * 6

    assert run(answering(*[OK] * 6), scenario) == 2


def test_no_server_is_an_error() -> None:
    async def scenario(_pool: KeepAlivePool) -> None:
        with pytest.raises(ConnectionError):
            await _post(KeepAlivePool("http://127.0.0.1:1"))

    run(answering(OK), scenario)
