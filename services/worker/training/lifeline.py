"""The lifeline: the request comes in on it, and its end means that the supervisor is gone."""

from __future__ import annotations

import os
import signal
import threading

MAX_REQUEST_BYTES = 16 * 2**20


def read_line(descriptor: int) -> bytes:
    """The first line, without its newline.

    Raises:
        EOFError: the supervisor went away before it had said anything.
        ValueError: the line is longer than any request can be.
    """
    data = bytearray()
    while b"\n" not in data:
        part = os.read(descriptor, 65536)
        if not part:
            raise EOFError("the lifeline closed before a request came")
        data += part
        if len(data) > MAX_REQUEST_BYTES:
            raise ValueError("the request is too long")
    return bytes(data.partition(b"\n")[0])


def watch(descriptor: int) -> threading.Thread:
    """From now on, end this process and what it started as soon as ``descriptor`` reads end-of-file."""
    thread = threading.Thread(target=_wait_for_end, args=(descriptor,), name="lifeline", daemon=True)
    thread.start()
    return thread


def _wait_for_end(descriptor: int) -> None:
    while True:
        try:
            if not os.read(descriptor, 4096):
                break
        except InterruptedError:
            continue
        except OSError:
            break
    # Nobody is left to tell. A group of our own holds only what this job started, such as a download.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
