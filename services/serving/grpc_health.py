"""gRPC's health service (grpc.health.v1): ``Check``, and ``Watch``, which says more when the server stops.

Messages are written by hand: both have one field, and are not worth a package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc

_SERVICE = "/grpc.health.v1.Health/"
_KNOWN = ("", "ModelService", "PredictionService", "tensorflow.serving.ModelService",
          "tensorflow.serving.PredictionService")  # fmt: skip
# HealthCheckResponse{status: ...}
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
Send = Callable[[bytes | None], None]


class Health:
    """Known services are SERVING until the server stops. Safe to call from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watching: set[Send] = set()
        self._stopped = False

    def handler(self, name: str) -> Any | None:
        """gRPC's handler for a full method name; None for what this service has not."""
        if name == _SERVICE + "Check":
            return grpc.unary_unary_rpc_method_handler(self._check)
        if name == _SERVICE + "Watch":
            watch = _NonBlocking(self._watch)
            return grpc.unary_stream_rpc_method_handler(watch)
        return None

    def stop(self) -> None:
        """Tell those who watch, and end their calls: they would keep the server from ending."""
        with self._lock:
            self._stopped = True
            watching, self._watching = self._watching, set()
        for send in watching:
            send(_NOT_SERVING)
            send(None)

    def _check(self, raw: bytes, context: Any) -> bytes:
        if _service(raw) not in _KNOWN:
            return bytes(context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown"))  # abort() raises
        return _NOT_SERVING if self._stopped else _SERVING

    def _watch(self, raw: bytes, context: Any, send: Send) -> None:
        send(_SERVING if _service(raw) in _KNOWN else _SERVICE_UNKNOWN)
        with self._lock:
            if not self._stopped:
                self._watching.add(send)
                if not context.add_callback(lambda: self._watching.discard(send)):
                    self._watching.discard(send)  # it has ended already
                return
        send(None)


class _NonBlocking:
    """A handler that goes on by a callback, as grpcio's own health service does: a watcher must not keep a thread."""

    experimental_non_blocking = True

    def __init__(self, call: Callable[[bytes, Any, Send], None]) -> None:
        self._call = call

    def __call__(self, raw: bytes, context: Any, send_response_callback: Send) -> None:
        self._call(raw, context, send_response_callback)


def _service(raw: bytes) -> str:
    # HealthCheckRequest has one text field, so its bytes are a tag, a length and the text.
    return raw[2:].decode("utf-8", "replace")
