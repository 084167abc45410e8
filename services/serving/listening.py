"""The HTTP port: takes connections, gives them to the fronts where there are any, and ends in order on a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from services.serving.fronts import Fronts
from services.serving.options import Options
from services.serving.rest import RestApp
from shared.wire.arrivals import Arrivals
from shared.wire.uvicorn_wire import Wire

if TYPE_CHECKING:
    from services.serving.grpc_server import GrpcServer

log = logging.getLogger("serving")

_AT_ONCE = 64  # connections taken before others have their turn
_WITHOUT_FILES_SECONDS = 1.0  # how long no connection is taken when there are no descriptors left for it


class _Server(uvicorn.Server):
    """Tells gRPC of the signal too, so that both finish their requests at the same time."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._on_stop()


class _Sharing(_Server):
    """Shares its connections with fronts."""

    def __init__(
        self, config: uvicorn.Config, on_stop: Callable[[], None], fronts: Fronts, grace: float
    ) -> None:
        super().__init__(config, on_stop)
        self.fronts = fronts
        self._grace = grace
        self._listeners: list[socket.socket] = []
        self._arrivals = Arrivals(log.warning)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._loop = asyncio.get_running_loop()
        self.fronts.give_back_to(self._adopt_from_thread)
        self._listeners = list(sockets or [])
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        await self._loop.run_in_executor(None, self.fronts.stop, self._grace)
        await super().shutdown([])

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("can't take connections for %g s: %s", _WITHOUT_FILES_SECONDS, error)
                self._loop.remove_reader(listener)
                self._loop.call_later(_WITHOUT_FILES_SECONDS, self._accept_again, listener)
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.fronts.give(client):
                client.close()
            else:
                self._adopt(client)

    def _accept_again(self, listener: socket.socket) -> None:
        if not self.should_exit:
            self._loop.add_reader(listener, self._accept, listener)

    def _adopt_from_thread(self, client: socket.socket, read: bytes, useful: bool) -> None:
        try:
            self._loop.call_soon_threadsafe(self._adopt, client, read, useful)
        except RuntimeError:  # the loop has ended
            client.close()

    def _adopt(self, client: socket.socket, read: bytes = b"", useful: bool = False) -> None:
        """Go on with a connection of which ``read`` has been read."""

        def made() -> _SharedWire:
            wire = _SharedWire(self.config, self.server_state, self.lifespan.state, self._loop)
            wire.before, wire.fronts, wire.useful = read, self.fronts, useful
            return wire

        self._arrivals.take(client, made)


class _SharedWire(Wire):
    """A connection that goes to a front when there is one for what its client asks for."""

    before = b""  # what the front has read
    fronts: Fronts | None = None
    useful = False  # in a front, which has answered something there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.before:
            self.begin_with(self.before)
            self.before = b""

    def _done(self) -> None:
        super()._done()
        if (
            self.fronts is not None
            and (self.useful or self.answered_quickly)
            and self.fronts.wanted
            and not self._closing
            and not self._busy
            and not self._filled
            and not self.transport.get_write_buffer_size()
        ):
            self._go_back(self.fronts)

    def _go_back(self, fronts: Fronts) -> None:
        own = self.transport.get_extra_info("socket")
        descriptor = socket.socket(fileno=socket.dup(own.fileno()))
        given = fronts.give(descriptor)
        descriptor.close()
        if given:
            self.release()
            self.transport.abort()  # closes this process's descriptor, not the connection


def serve(
    app: RestApp,
    listener: socket.socket | None,
    options: Options,
    grpc_server: GrpcServer | None,
    fronts: Fronts | None,
) -> None:
    """Serve until a signal, then finish the requests in flight."""
    grace = max(1.0, options.timeout_ms / 1000) if options.timeout_ms else 3600.0
    if listener is None:
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stopped.set())
        stopped.wait()
        if grpc_server is not None:
            grpc_server.stop(grace).wait(grace)
        return
    config = uvicorn.Config(
        app,
        http=cast(Any, Wire),  # asyncio's two kinds of protocols have no common type
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        # uvicorn's 5 s is also httpx's: a client would now and then reuse a connection that is just being closed.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=max(1, options.timeout_ms // 1000) if options.timeout_ms else None,
    )
    ended: list[threading.Event] = []

    def on_stop() -> None:
        app.stop_waiting()
        if grpc_server is not None:
            ended.append(grpc_server.stop(grace))

    server = _Server(config, on_stop) if fronts is None else _Sharing(config, on_stop, fronts, grace)

    def stop(sig: int, frame: FrameType | None) -> None:
        # A signal that comes before uvicorn hears them must not be lost. When it is done it raises its own again, so
        # that the program dies of it; a clean stop is exit code 0 here.
        if not server.should_exit:
            server.handle_exit(sig, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[listener])
    for event in ended:
        event.wait(grace)


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket that listens; ``shared``: others may listen there too, and each gets a part of the connections.

    Raises:
        OSError: in words.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"can't listen on {host}:{port}: {error.strerror}") from None
    listener.listen(1024)
    return listener
