"""A process that answers predictions on LiteRT and nothing else.

``Fronts``, in the server's own process, starts it and tells it of the versions there are. It is given connections,
and gives one back with the first request that takes more than it can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import orjson

from services.serving.channel import Channel, in_memory, read_whole
from services.serving.errors import Code, ServingError
from services.serving.litert import LitertServable, LitertSignature
from services.serving.plain_predict import PlainPredictions
from services.serving.quick import QuickPredictions
from services.serving.signature import DEFAULT_SIGNATURE, Servable, Signature, TensorSpec
from services.serving.telemetry import RequestLog, Telemetry
from shared.wire import Connection, Head
from shared.wire.arrivals import Arrivals

log = logging.getLogger("serving.front")

_KEEP_ALIVE_SECONDS = 120.0
_GRACE_SECONDS = 10.0
_GARBAGE = 20_000  # new objects before a collection; requests leave hardly any that need one
_Headers = list[tuple[bytes, bytes]]


class _Nothing:
    """Where the rest of a version would be: in another process."""

    def __init__(self, signature: Signature) -> None:
        self.signatures: Mapping[str, Signature] = {signature.name: signature}
        self.signature_def_json: Mapping[str, Any] = {}

    def run(self, *_: Any, **__: Any) -> NoReturn:
        raise ServingError(Code.UNAVAILABLE, "This process has LiteRT models only")

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Lease:
    """A version in use; there is one thread, so it can't be taken away meanwhile."""

    version: int
    servable: Servable

    def __enter__(self) -> _Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(slots=True)
class _Model:
    versions: dict[int, _Lease]
    latest: int | None
    labels: dict[str, int]


class _Versions:
    """What there is here; versions that only the server's own process has are not found."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def acquire(self, name: str, version: int | None, label: str | None) -> _Lease:
        """See ``ModelManager.acquire``."""
        model = self._models.get(name)
        if model is not None:
            asked = model.labels.get(label) if label is not None else version
            if asked is None and label is None:
                asked = model.latest
            lease = model.versions.get(asked) if asked is not None else None
            if lease is not None:
                return lease
        raise ServingError(Code.NOT_FOUND, "It is not here")

    def add(self, name: str, version: int, servable: Servable) -> None:
        model = self._models.setdefault(name, _Model({}, None, {}))
        model.versions[version] = _Lease(version, servable)

    def set(self, name: str, versions: list[int], latest: int | None, labels: dict[str, int]) -> None:
        """Keep these versions of a model, and let requests without a version mean ``latest``."""
        model = self._models.setdefault(name, _Model({}, None, {}))
        model.versions = {one: lease for one, lease in model.versions.items() if one in versions}
        model.latest, model.labels = latest, labels
        if not model.versions:
            del self._models[name]


class _Front:
    def __init__(self, channel: Channel, options: Mapping[str, Any]) -> None:
        self._channel = channel
        self._versions = _Versions()
        path = options["request_log"]
        self._telemetry = Telemetry(RequestLog(Path(path)) if path else None)
        cors = [(name.encode(), value.encode()) for name, value in options["cors"]]
        self.quick = QuickPredictions(PlainPredictions(self._versions.acquire), self._telemetry, cors)
        self.connections: set[FrontConnection] = set()
        self.headers: _Headers = []
        self._over = asyncio.Event()
        self._empty = asyncio.Event()  # no connections
        self._empty.set()
        self._arrivals = Arrivals(log.warning)

    async def run(self) -> None:
        """Until the server's own process says so, or is gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._hear)
        self._tick()
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE, 20, 50)
        self._channel.send({"op": "ready"})
        await self._over.wait()
        for connection in list(self.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), _GRACE_SECONDS)

    def _tick(self) -> None:
        self.headers = [(b"date", formatdate(usegmt=True).encode())]
        asyncio.get_running_loop().call_later(1.0, self._tick)

    def _hear(self) -> None:
        while True:
            try:
                found = self._channel.receive(wait=False)
            except BlockingIOError:
                return
            if found is None:
                # killed, perhaps: who asks now must see the end of the connection and not wait
                os._exit(1)
            message, files = found
            getattr(self, f"_on_{message.pop('op')}")(*files, **message)

    def _on_connection(self, descriptor: int) -> None:
        self._arrivals.take(socket.socket(fileno=descriptor), lambda: FrontConnection(self))

    def _on_add(self, descriptor: int, *, model: str, version: int, signature: dict[str, Any]) -> None:
        found = signature_from(signature)
        litert = LitertSignature(read_whole(descriptor), found)
        litert.most_rows = signature["most_rows"]
        self._versions.add(model, version, LitertServable(_Nothing(found), litert, quick=True))
        gc.freeze()

    def _on_table(
        self, *, number: int, model: str, versions: list[int], latest: int | None, labels: dict[str, int]
    ) -> None:
        self._versions.set(model, versions, latest, labels)
        self._channel.send({"op": "done", "number": number})

    def _on_tally(self, *, number: int) -> None:
        sums = [(astuple(key), one.as_json()) for key, one in self._telemetry.tally.take()]
        descriptor = in_memory(orjson.dumps(sums))
        self._channel.send({"op": "tally", "number": number}, [descriptor])
        os.close(descriptor)

    def _on_stop(self) -> None:
        self._over.set()

    def came(self, connection: FrontConnection) -> None:
        self.connections.add(connection)
        self._empty.clear()

    def went(self, connection: FrontConnection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def give_back(self, connection: FrontConnection) -> None:
        """The server's own process goes on with this one."""
        transport = connection.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():  # an answer must be out, or it would be lost
            asyncio.get_running_loop().call_later(0.005, self.give_back, connection)
            return
        descriptor = in_memory(connection.release())
        client = transport.get_extra_info("socket").fileno()
        self._channel.send({"op": "connection", "useful": connection.answered > 0}, [client, descriptor])
        os.close(descriptor)
        transport.abort()  # closes this process's descriptor, not the connection


class FrontConnection(Connection):
    """A client of the front."""

    def __init__(self, front: _Front) -> None:
        super().__init__(front.quick, keep_alive_seconds=_KEEP_ALIVE_SECONDS)
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._front.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._front.went(self)

    def _default_headers(self) -> _Headers:
        return self._front.headers

    def _run(self, head: Head, body: bytes) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        self._busy = True
        self._front.give_back(self)


def signature_to(litert: LitertSignature, signature: Signature) -> dict[str, Any]:
    """What ``signature_from`` and a front need to know of a version, as JSON values."""

    def specs(found: Mapping[str, TensorSpec]) -> dict[str, list[Any]]:
        return {alias: [spec.name, spec.dtype, spec.shape] for alias, spec in found.items()}

    return {
        "method": signature.method_name,
        "inputs": specs(signature.inputs),
        "outputs": specs(signature.outputs),
        "most_rows": litert.most_rows,
    }


def signature_from(told: Mapping[str, Any]) -> Signature:
    """The default signature that was told by ``signature_to``."""

    def specs(found: Mapping[str, list[Any]]) -> dict[str, TensorSpec]:
        return {
            alias: TensorSpec(name, dtype, None if shape is None else tuple(shape))
            for alias, (name, dtype, shape) in found.items()
        }

    return Signature(DEFAULT_SIGNATURE, told["method"], specs(told["inputs"]), specs(told["outputs"]))


def main(descriptor: int, options: Mapping[str, Any]) -> None:
    """Serve until told to stop."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)-7s  %(name)s  %(message)s"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server's own process gets them too, and says what to do
    channel = Channel(socket.socket(fileno=descriptor))

    async def run() -> None:
        await _Front(channel, options).run()

    try:
        import uvloop
    except ImportError:
        asyncio.run(run())
    else:
        uvloop.run(run())


if __name__ == "__main__":
    main(int(sys.argv[1]), orjson.loads(sys.argv[2]))
