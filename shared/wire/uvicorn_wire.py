"""``Connection`` as uvicorn's HTTP protocol: simple requests run the ASGI application, others go to uvicorn's own."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast
from urllib.parse import unquote

from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, is_ssl
from uvicorn.server import ServerState

from shared.wire import connection
from shared.wire.connection import LONGEST_HEAD, Connection, Quick
from shared.wire.head import Head, Headers, without_upgrade

# Larger bodies are streamed to the application by uvicorn's own protocol, at the pace of whoever reads them.
_READ_WHOLE = 64 * 1024
LINGER_SECONDS = 2.0


class Wire(Connection):
    """For ``uvicorn.Config(http=...)``. The application may have an attribute ``quick``."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        quick = cast("Quick | None", getattr(config.app, "quick", None))
        super().__init__(quick, keep_alive_seconds=config.timeout_keep_alive)
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._cycle: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server_state.connections.add(cast(Any, self))
        self._held = HeldHead(self.transport)
        self._flow = FlowControl(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server_state.connections.discard(cast(Any, self))
        if self._cycle is not None:
            self._cycle.disconnected = not self._cycle.response_complete
            self._cycle.message_event.set()
        self._flow.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._flow.resume_writing()

    def shutdown(self) -> None:
        """See ``Connection.shutdown``."""
        if self._cycle is not None:
            self._cycle.keep_alive = False
        super().shutdown()

    def _default_headers(self) -> Headers:
        return self._server_state.default_headers

    def _reads(self, head: Head) -> bool:
        return head.length <= _READ_WHOLE

    def _run(self, head: Head, body: bytes) -> None:
        cycle = self._cycle = RequestResponseCycle(
            scope=cast(Any, self.scope(head)),
            transport=cast(asyncio.Transport, self._held),
            flow=self._flow,
            logger=_log,
            access_logger=_log,
            access_log=False,
            default_headers=self._server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=not self._closing,
            on_response=self._responded,
        )
        cycle.body = bytearray(body)
        cycle.more_body = False
        cycle.message_event.set()
        task = self._loop.create_task(cycle.run_asgi(self._config.loaded_app))
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    def _responded(self) -> None:
        self._held.release()  # of an answer to HEAD, which has no body
        self._server_state.total_requests += 1
        self._cycle = None
        if not self.transport.is_closing():
            self._done()

    def scope(self, head: Head) -> dict[str, Any]:
        """The request as ASGI describes one, and ``target``, which tells an empty query from none."""
        raw_path, _, query = head.target.partition(b"?")
        path = raw_path.decode("ascii")
        root = self._config.root_path
        return {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": get_local_addr(self.transport),
            "client": self.client,
            "scheme": "https" if is_ssl(self.transport) else "http",
            "root_path": root,
            "headers": head.headers,
            "state": self._app_state.copy(),
            "method": head.method,
            "path": root + (unquote(path) if "%" in path else path),
            "raw_path": root.encode("ascii") + raw_path,
            "query_string": query,
            "target": head.target,
        }

    def _pass_on(self) -> None:
        read = self.release()
        self._server_state.connections.discard(cast(Any, self))
        uvicorns = _Uvicorns(self._config, self._server_state, self._app_state, self._loop)
        uvicorns.connection_made(self.transport)
        self.transport.pause_reading()  # the loop learns on starting again that this one has no buffer of its own
        self.transport.set_protocol(uvicorns)
        self.transport.resume_reading()
        uvicorns.data_received(without_upgrade(read))
        if self._closing:
            uvicorns.shutdown()


class _Uvicorns(HttpToolsProtocol):
    """With an end to heads, which the parser and uvicorn would gather for as long as more of them comes."""

    _unread = 0  # bytes that were no body and have not completed a head
    _head_bytes = 0  # of lines, in the head and behind the chunks
    _refused = False
    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._held = HeldHead(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, self._held))

    def connection_lost(self, exc: Exception | None) -> None:
        self._hurry(over=True)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unread += len(data)
        super().data_received(data)
        if self._unread > LONGEST_HEAD and not self._refused and not self.transport.is_closing():
            self._refuse_head()
        self._hurry(over=self._refused or self.transport.is_closing() or self._is_answering())

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unread = 0
        cast("dict[str, Any]", self.scope)["target"] = self.url
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._held.release()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > LONGEST_HEAD:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _count(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > LONGEST_HEAD:
            raise ValueError("the head is too long")  # the parser stops, and a 400 is asked for

    def _refuse_head(self) -> None:
        self._refused = True
        self.transport.write(_TOO_LONG)
        self._held.release()
        if self._is_answering():
            self.transport.close()
        else:
            # a connection closed on a client that still writes is reset, and the client may never see the answer
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _hurry(self, *, over: bool) -> None:
        """A request that goes on coming while nothing is being answered has a while for it."""
        if over:
            if self._slow is not None:
                self._slow.cancel()
                self._slow = None
        elif self._slow is None:
            self._slow = self.loop.call_later(connection.SLOWEST_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._slow = None
        if not self._is_answering():
            self.transport.close()


_TOLD = b"The head of a request may have 64 KiB."
_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_TOLD), _TOLD)
)
_log = logging.getLogger("uvicorn.error")


class HeldHead:
    """A transport that keeps the head of an answer of known length until its body comes, or the connection closes.

    uvicorn writes the two apart, which wakes a client twice.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing  # asked often

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self.is_closing():  # nonsense may have followed the request meanwhile; uvloop minds
                self._transport.writelines((head, data))
        elif data[:9] == b"HTTP/1.1 " and b"\r\ncontent-length: " in data:
            # without a length it is a stream, whose first part may be long in coming
            self._head = data
        else:
            self._transport.write(data)

    def release(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self.release()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
