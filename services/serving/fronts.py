"""Processes that answer the simplest predictions beside the server's own, one for each core.

Python runs one thread at a time. So the server's own process takes connections, gives them to its fronts in turn, and
is left with what a front can't do: other requests, models that need TensorFlow, loads. A front knows a version once it
is AVAILABLE and no more once it is not, as anybody who asks for the status sees it.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from services.serving.channel import Channel, in_memory, pair, read_whole
from services.serving.front import signature_to
from services.serving.harness import Table
from services.serving.litert import LitertServable
from services.serving.signature import DEFAULT_SIGNATURE
from services.serving.tally import Key, Sums

log = logging.getLogger("serving.fronts")

Adopt = Callable[[socket.socket, bytes, bool], None]
_PATIENCE = 5.0  # seconds; a front that takes longer to answer is ended
_PAUSE = 1.0  # seconds before a front that has ended is started anew
_Known = dict[str, dict[int, LitertServable]]


class _Front:
    """One process, as seen from here."""

    def __init__(self, options: bytes) -> None:
        ours, theirs = pair()
        command = [sys.executable, "-m", "services.serving.front", str(theirs.fileno()), options.decode()]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        ours.settimeout(None)
        self.channel = Channel(ours)
        self.ready = False
        self.known: _Known = {}
        self._answers: dict[int, threading.Event] = {}
        self._number = 0
        self._lock = threading.Lock()

    def ask(self, message: Mapping[str, Any]) -> threading.Event:
        """Send a message that is answered; the event is set by the answer, or by the end."""
        with self._lock:
            self._number += 1
            number = self._number
            event = self._answers[number] = threading.Event()
        try:
            self.channel.send({**message, "number": number})
        except OSError:
            event.set()
        return event

    def answered(self, number: int) -> None:
        with self._lock:
            event = self._answers.pop(number, None)
        if event is not None:
            event.set()

    def ended(self) -> None:
        """Nobody waits for it any more."""
        self.ready = False
        with self._lock:
            events, self._answers = list(self._answers.values()), {}
        for event in events:
            event.set()

    def kill(self) -> None:
        self.ready = False
        self.process.kill()

    def sync(
        self, model: str, table: Table | None, found: Mapping[int, LitertServable]
    ) -> threading.Event | None:
        """Tell it what has changed of a model; None: nothing that it cares about."""
        known = self.known.get(model, {})
        if not found and not known:
            return None
        try:
            for version, servable in found.items():
                if known.get(version) is not servable:
                    self._add(model, version, servable)
        except OSError:
            return None
        self.known[model] = dict(found)
        latest, labels = (None, {}) if table is None else (table.latest, dict(table.labels))
        return self.ask(
            {"op": "table", "model": model, "versions": list(found), "latest": latest, "labels": labels}
        )

    def _add(self, model: str, version: int, servable: LitertServable) -> None:
        signature = servable.signatures[DEFAULT_SIGNATURE]
        descriptor = in_memory(servable.model.content)
        told = {"model": model, "version": version, "signature": signature_to(servable.model, signature)}
        try:
            self.channel.send({"op": "add", **told}, [descriptor])
        finally:
            os.close(descriptor)


class Fronts:
    """All of them. ``absorb`` takes what they have counted. Safe to use from many threads."""

    def __init__(
        self,
        count: int,
        absorb: Callable[[Key, Sums], None],
        *,
        cors: Sequence[tuple[bytes, bytes]] = (),
        request_log: str = "",
    ) -> None:
        self._count = count
        self._absorb = absorb
        self._options = orjson.dumps(
            {"cors": [[name.decode(), value.decode()] for name, value in cors], "request_log": request_log}
        )
        self._adopt: Adopt | None = None
        self._fronts: list[_Front] = []
        self._tables: dict[str, tuple[Table, dict[int, LitertServable]]] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._next = 0

    def start(self) -> None:
        """Start the processes; connections can be given to them when they are ready."""
        for place in range(self._count):
            front = _Front(self._options)
            self._fronts.append(front)
            threading.Thread(target=self._attend, args=(place,), name=f"front-{place}", daemon=True).start()

    def give_back_to(self, adopt: Adopt) -> None:
        """Who takes connections that come back, with what was read of them, and whether they were of use there."""
        self._adopt = adopt

    # Versions ---------------------------------------------------------------------------------------

    def publish(self, model: str, table: Table) -> None:
        """From now on requests for ``model`` mean this; returns when all fronts go by it."""
        found = {
            version: harness.servable
            for version, harness in table.versions.items()
            if isinstance(harness.servable, LitertServable)
            and harness.servable.quick
            and not harness.servable.signatures[DEFAULT_SIGNATURE].defaults
        }
        with self._lock:
            last = self._tables.get(model)
            if last is not None and (last[0].latest, last[0].labels, last[1]) == (
                table.latest, table.labels, found,
            ):  # fmt: skip
                return
            if found:
                self._tables[model] = (table, found)
            else:
                self._tables.pop(model, None)
            asked = [(one, one.sync(model, table, found)) for one in self._fronts if one.ready]
        _wait(asked)

    # Connections ------------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether there is anything that a front can answer."""
        return bool(self._tables) and any(one.ready for one in self._fronts)

    def give(self, client: socket.socket) -> bool:
        """Let a front go on with a connection of which nothing is read; the caller closes its own descriptor.

        False: none takes it.
        """
        if not self._tables:
            return False
        for _ in range(self._count):
            self._next = (self._next + 1) % self._count
            front = self._fronts[self._next]
            if front.ready:
                try:
                    front.channel.send({"op": "connection"}, [client.fileno()], wait=False)
                except OSError:
                    continue
                return True
        return False

    # Counts -----------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Bring in what has been counted."""
        _wait([(front, front.ask({"op": "tally"})) for front in self._fronts if front.ready])

    # The processes ------------------------------------------------------------------------------------

    def _attend(self, place: int) -> None:
        """Hear one front out, and start another one when it has ended."""
        while True:
            front = self._fronts[place]
            self._hear(front)
            front.ended()
            front.channel.close()
            code = front.process.wait()
            if self._is_stopping():
                return
            log.error("front %d has ended (%d); another one is started", front.process.pid, code)
            time.sleep(_PAUSE)
            with self._lock:
                if self._is_stopping():
                    return
                self._fronts[place] = _Front(self._options)

    def _is_stopping(self) -> bool:
        return self._stopping

    def _hear(self, front: _Front) -> None:
        while (found := front.channel.receive()) is not None:
            message, files = found
            match message["op"]:
                case "ready":
                    self._welcome(front)
                case "done":
                    front.answered(message["number"])
                case "tally":
                    for key, sums in orjson.loads(read_whole(files[0])):
                        self._absorb(Key(*key), Sums.from_json(sums))
                    front.answered(message["number"])
                case "connection":
                    client = socket.socket(fileno=files[0])
                    data = read_whole(files[1])
                    if self._adopt is None:
                        client.close()
                    else:
                        self._adopt(client, data, message["useful"])

    def _welcome(self, front: _Front) -> None:
        with self._lock:
            for model, (table, found) in self._tables.items():
                front.sync(model, table, found)
            front.ready = True

    def stop(self, grace: float) -> None:
        """Let requests in hand end, for ``grace`` seconds at most."""
        with self._lock:
            self._stopping = True
            fronts = list(self._fronts)
        for front in fronts:
            try:
                front.channel.send({"op": "stop"}, wait=False)
            except OSError:
                front.kill()
        until = time.monotonic() + grace
        for front in fronts:
            try:
                front.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                front.kill()


def _wait(asked: Sequence[tuple[_Front, threading.Event | None]]) -> None:
    until = time.monotonic() + _PATIENCE
    for front, event in asked:
        if event is not None and not event.wait(max(0.0, until - time.monotonic())):
            log.error("front %d does not answer; it is ended", front.process.pid)
            front.kill()
