"""The gRPC side: threads, ports, deadlines and status codes; what the methods do is in ``grpc_methods``.

Requests and answers pass through here as bytes, so this needs no message classes, and the port can be taken
before TensorFlow is there.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from services.serving.config import Tls
from services.serving.errors import CODES_BY_NUMBER, Code, ServingError
from services.serving.grpc_health import Health
from services.serving.telemetry import Telemetry
from services.serving.trace import Trace

log = logging.getLogger("serving.grpc")

Method = Callable[[bytes, Trace, float], bytes]

_LONGEST_MESSAGE = 1024
_LARGEST = 2**31 - 1
_STATUS = {
    code: next(one for one in grpc.StatusCode if one.value[0] == number)
    for number, code in enumerate(CODES_BY_NUMBER)
}


class GrpcServer:
    """A gRPC server on ``addresses`` ("host:port" or "unix:/path").

    The addresses are taken at once; ``start`` begins to answer.

    Raises:
        OSError: if an address can't be taken.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        telemetry: Telemetry,
        *,
        threads: int,
        channel_arguments: Sequence[tuple[str, Any]] = (),
        tls: Tls | None = None,
        health: bool = False,
    ) -> None:
        self._telemetry = telemetry
        self._health = Health() if health else None
        self._methods: Mapping[str, Method] = {}
        self._stopped = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="grpc")
        options = {
            "grpc.max_receive_message_length": _LARGEST,
            "grpc.max_send_message_length": _LARGEST,
            "grpc.so_reuseport": 0,  # or a second server on the port would take half of the requests
            **dict(channel_arguments),
        }
        self._server = grpc.server(
            self._pool, handlers=(_Handlers(self._find, self._health),), options=tuple(options.items())
        )
        self.ports: list[int] = []
        for address in addresses:
            try:
                self.ports.append(self._bind(address, tls))
            except RuntimeError as error:
                self._server.stop(None)
                raise OSError(f"can't listen on {address}: {error}") from None

    def _bind(self, address: str, tls: Tls | None) -> int:
        if tls is None:
            return int(self._server.add_insecure_port(address))
        credentials = grpc.ssl_server_credentials(
            [(tls.server_key.encode(), tls.server_cert.encode())],
            root_certificates=tls.custom_ca.encode() or None,
            require_client_auth=tls.client_verify,
        )
        return int(self._server.add_secure_port(address, credentials))

    def start(self, make_methods: Callable[[], Mapping[str, Method]]) -> None:
        """Begin to answer once ``make_methods``, which may take seconds, has made the methods."""

        def run() -> None:
            try:
                self._methods = make_methods()
            except Exception:
                log.exception("gRPC can't start")
                return
            with self._lock:
                if self._stopped:
                    return
                self._server.start()
            log.info("gRPC answers")

        threading.Thread(target=run, name="grpc-start", daemon=True).start()

    def stop(self, grace: float | None) -> threading.Event:
        """Take no more calls; those that run have ``grace`` seconds (None: none). The event says all have ended."""
        with self._lock:
            self._stopped = True
        if self._health is not None:
            self._health.stop()
        event: threading.Event = self._server.stop(grace)
        return event

    def _find(self, name: str) -> Method | None:
        method = self._methods.get(name)
        return None if method is None else self._measured(method)

    def _measured(self, method: Method) -> Method:
        def call(raw: bytes, trace: Trace, timeout: float) -> bytes:
            code, answer = Code.OK, b""
            trace.request_bytes = len(raw)
            try:
                answer = method(raw, trace, timeout)
            except ServingError as error:
                code = error.code
                raise
            except Exception as error:
                code = Code.INTERNAL
                log.exception("%s failed", trace.api)
                raise ServingError(code, f"{type(error).__name__}: {error}") from error
            finally:
                self._telemetry.finish(trace, code, len(answer))
            return answer

        return call


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no type information
    def __init__(self, find: Callable[[str], Method | None], health: Health | None) -> None:
        self._find = find
        self._health = health

    def service(self, handler_call_details: Any) -> Any:
        """gRPC's hook: the handler of a call, or None for UNIMPLEMENTED."""
        name: str = handler_call_details.method
        if self._health is not None and (handler := self._health.handler(name)) is not None:
            return handler
        method = self._find(name)
        if method is None:
            return None
        request_id = next(
            (value for key, value in handler_call_details.invocation_metadata or () if key == "x-request-id"),
            "",
        )

        def run(raw: bytes, context: Any) -> bytes:
            trace = Trace("GRPC", name.rpartition("/")[2], request_id=str(request_id))
            left = context.time_remaining()
            # gRPC gives "no deadline" as None or as a time centuries away.
            timeout = math.inf if left is None or left > 1e8 else max(left, 0.001)
            try:
                return method(raw, trace, timeout)
            except ServingError as error:
                return bytes(context.abort(_STATUS[error.code], _shortened(error.message)))  # abort() raises

        return grpc.unary_unary_rpc_method_handler(run)


def _shortened(message: str) -> str:
    text = message.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "...TRUNCATED"
