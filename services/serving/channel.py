"""Messages with open files between two processes of this server.

Linux only, for sockets that keep messages whole and files without a name.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

AVAILABLE = sys.platform == "linux"
_LONGEST = 128 * 1024  # bytes of a message; what may be longer goes into a file
_MOST_FILES = 4


class Channel:
    """One end. Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """For a selector; -1 when it is closed."""
        return self._end.fileno()

    def send(self, message: Mapping[str, Any], files: Sequence[int] = (), *, wait: bool = True) -> None:
        """Send a message of JSON values; the other side gets descriptors of its own for ``files``.

        Raises:
            BlockingIOError: it would take time, and ``wait`` is false.
            OSError: the other side is gone.
        """
        flags = 0 if wait else socket.MSG_DONTWAIT
        with self._lock:
            socket.send_fds(self._end, [orjson.dumps(message)], list(files), flags)

    def receive(self, *, wait: bool = True) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its files, which are the caller's to close; None: the other side is gone.

        Raises:
            BlockingIOError: there is none yet, and ``wait`` is false.
        """
        try:
            data, files, _, _ = socket.recv_fds(
                self._end, _LONGEST, _MOST_FILES, 0 if wait else socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            raise
        except OSError:
            return None
        return (orjson.loads(data), files) if data else None

    def close(self) -> None:
        """The other side sees the end."""
        self._end.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def in_memory(content: bytes) -> int:
    """A descriptor of a file that holds ``content`` and has no name; the caller closes it."""
    descriptor = os.memfd_create("modelyard-serving", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def read_whole(descriptor: int) -> bytes:
    """What ``in_memory`` was given; closes the descriptor."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
