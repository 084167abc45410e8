"""Connections dealt out evenly among the processes of a fleet.

The kernel chooses a process by a hash of the addresses: of eight connections one of two processes gets six or more one
time in four, and keeps them. So a process that has more than another passes a new one on, as a file descriptor, before
anything is read from it. How many each has stands in a file that all have mapped and each writes its own row of; nobody
waits for anybody, and whoever can't pass a connection on serves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from shared.wire.arrivals import Arrivals
from shared.wire.uvicorn_wire import Wire

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 0.2
ARRIVED_SECONDS = 1.0  # what was passed on is there by then, or lost with its process
_NOBODY = 2**40  # connections of a process that is not there
_FILE = "connections"
_WORD = 8  # bytes of a number


def lay_out(folder: Path, size: int) -> None:
    """Prepare ``folder`` for a fleet of ``size`` processes, of which none is there yet."""
    row = [_NOBODY, *[0] * size]
    (folder / _FILE).write_bytes(b"".join(number.to_bytes(_WORD, "little") for number in row * size))


class Spread:
    """The place of one process in its fleet; belongs to one event loop.

    Args:
        folder: see ``lay_out``.
        slot: this process' number, from 0.
        size: of the fleet.
    """

    def __init__(self, folder: Path, slot: int, size: int) -> None:
        self._folder = folder
        self._slot = slot
        self._size = size
        with (folder / _FILE).open("r+b") as file:
            self._rows = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._sent = [self._received(other, slot) for other in range(size)]
        self._sent_at = [0.0] * size
        self._state: ServerState | None = None
        self._socket: socket.socket | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._arrivals = Arrivals(log.debug)

    def wire(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Wire:
        """For ``uvicorn.Config(http=...)``."""
        return _Dealt(config, server_state, app_state, _loop, spread=self)

    def join(self, server: uvicorn.Server) -> None:
        """Take part: ``server`` listens."""
        path = self._folder / f"{self._slot}.sock"
        path.unlink(missing_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        try:
            receiver.bind(str(path))
        except OSError as error:  # a folder whose name is too long
            log.warning("connections are dealt out by the kernel alone: %s", error)
            receiver.close()
            return
        self._socket, self._state = receiver, server.server_state
        loop = asyncio.get_running_loop()
        loop.add_reader(receiver.fileno(), self._arrived, server)
        self._publishing = loop.create_task(self._publish())

    def leave(self) -> None:
        """Take no more; what is here stays."""
        if self._socket is not None and self._publishing is not None:
            self._publishing.cancel()
            self._rows[self._row(self._slot)] = _NOBODY
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = self._state = None

    def pass_on(self, connection: int) -> bool:
        """Whether the connection with this file descriptor is another's now."""
        if self._socket is None or self._state is None or self._size < 2:
            return False
        mine = len(self._state.connections)
        self._rows[self._row(self._slot)] = mine + 1
        fewest, other = min((self._has(slot), slot) for slot in range(self._size) if slot != self._slot)
        if fewest >= mine:
            return False
        try:
            # socket.send_fds takes an address and does not use it
            self._socket.sendmsg(
                [b"%d" % self._slot],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, connection.to_bytes(4, sys.byteorder))],
                0,
                str(self._folder / f"{other}.sock"),
            )
        except OSError as error:  # it has just ended, or has no time to take them
            log.debug("process %d takes no connection: %s", other, error)
            return False
        self._sent[other] += 1
        self._sent_at[other] = time.monotonic()
        self._rows[self._row(self._slot)] = mine
        return True

    def _row(self, slot: int) -> int:
        return slot * (self._size + 1)

    def _received(self, slot: int, by: int) -> int:
        return self._rows[self._row(slot) + 1 + by]

    def _has(self, slot: int) -> int:
        """Connections of another process, with those that are on their way to it."""
        arrived = self._received(slot, self._slot)
        if time.monotonic() - self._sent_at[slot] > ARRIVED_SECONDS:
            self._sent[slot] = arrived
        return self._rows[self._row(slot)] + max(0, self._sent[slot] - arrived)

    def _arrived(self, server: uvicorn.Server) -> None:
        receiver = self._socket
        with contextlib.suppress(BlockingIOError):
            while receiver is not None:
                message, descriptors, _, _ = socket.recv_fds(receiver, 16, 1)
                for descriptor in descriptors:
                    self._arrivals.take(
                        socket.socket(fileno=descriptor),
                        lambda: Wire(server.config, server.server_state, server.lifespan.state),
                    )
                self._rows[self._row(self._slot) + 1 + int(message)] += 1
                # before anybody looks at both numbers
                self._rows[self._row(self._slot)] += len(descriptors)

    async def _publish(self) -> None:
        while self._state is not None:
            self._rows[self._row(self._slot)] = len(self._state.connections)
            await asyncio.sleep(PUBLISH_SECONDS)


class _Dealt(Wire):
    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None,
        *,
        spread: Spread,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._spread: Spread | None = spread

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        spread, self._spread = self._spread, None
        found = transport.get_extra_info("socket")
        if spread is not None and found is not None and spread.pass_on(found.fileno()):
            transport.abort()  # type: ignore[attr-defined]
            self._theirs = True
        else:
            self._theirs = False
            super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._theirs:
            super().connection_lost(exc)
