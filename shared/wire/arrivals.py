"""Connections that come as sockets, taken by another listener or process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any


class Arrivals:
    """Those on their way to their protocol. ``on_loss`` is told, as a log is, of one that does not get there."""

    def __init__(self, on_loss: Callable[[str, object], None]) -> None:
        self._on_loss = on_loss
        self._under_way: set[asyncio.Task[None]] = set()  # the loop itself would let them be collected

    def take(self, client: socket.socket, protocol: Callable[[], Any]) -> None:
        """Go on with ``client`` in the running loop, by what ``protocol`` makes."""
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._connect(client, protocol))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _connect(self, client: socket.socket, protocol: Callable[[], Any]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, client)
        except OSError as error:
            self._on_loss("a connection was lost on its way: %s", error)
            client.close()
