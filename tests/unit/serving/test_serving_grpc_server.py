"""A real gRPC server and client in one process, with methods that need no model."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.serving import server
from services.serving.config import Tls, parse_ssl_config
from services.serving.errors import Code, ServingError
from services.serving.grpc_server import GrpcServer, Method
from services.serving.options import parse_options
from services.serving.telemetry import Telemetry
from services.serving.textproto import ConfigError
from services.serving.trace import Trace

PREFIX = "/tensorflow.serving.PredictionService/"


def methods(gate: threading.Event) -> Mapping[str, Method]:
    def echo(raw: bytes, trace: Trace, timeout: float) -> bytes:
        trace.model = trace.request_id
        return raw

    def fail(raw: bytes, trace: Trace, timeout: float) -> bytes:
        raise ServingError(Code[raw.decode()], "m\udcff" + "x" * 3000)

    def time_left(raw: bytes, trace: Trace, timeout: float) -> bytes:
        return b"endless" if math.isinf(timeout) else b"%d" % timeout

    def broken(raw: bytes, trace: Trace, timeout: float) -> bytes:
        raise KeyError("oops")

    def wait(raw: bytes, trace: Trace, timeout: float) -> bytes:
        assert gate.wait(10)
        return b"done"

    found = {"Echo": echo, "Fail": fail, "TimeLeft": time_left, "Broken": broken, "Wait": wait}
    return {PREFIX + name: method for name, method in found.items()}


class Running:
    """A started server and a channel to it."""

    def __init__(self, address: str = "127.0.0.1:0", tls: Tls | None = None, **options: Any) -> None:
        self.telemetry = Telemetry()
        self.gate = threading.Event()
        self.server = GrpcServer([address], self.telemetry, threads=2, tls=tls, **options)
        self.server.start(lambda: methods(self.gate))
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{self.server.ports[0]}"

    def call(self, name: str, raw: bytes = b"", channel: grpc.Channel | None = None, **options: Any) -> bytes:
        options = {"wait_for_ready": True, "timeout": 10, **options}
        if channel is not None:
            return bytes(channel.unary_unary(PREFIX + name)(raw, **options))
        with grpc.insecure_channel(self.address) as own:
            return self.call(name, raw, own, **options)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(*arguments: Any, **options: Any) -> Running:
        made.append(Running(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.gate.set()
        one.server.stop(None).wait(5)


def test_bytes_go_through_and_are_counted(run: Callable[..., Running]) -> None:
    running = run()
    assert running.call("Echo", b"abc", metadata=[("x-request-id", "id-1")]) == b"abc"
    lines = running.telemetry.render().decode().splitlines()
    assert ':tensorflow:serving:request_count{model_name="id-1",status="OK"} 1' in lines


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_code_and_long_messages(running: Running, code: Code) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.call("Fail", str(code).encode())
    assert caught.value.code().name == code
    assert caught.value.details() == "m?" + "x" * 1022 + "...TRUNCATED"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.server.stop(None).wait(5)


def test_deadlines_reach_the_method(running: Running) -> None:
    assert running.call("TimeLeft", timeout=100) in (b"99", b"100")
    assert running.call("TimeLeft", timeout=None) == b"endless"


def test_an_unexpected_error_is_internal_and_the_server_goes_on(running: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.call("Broken")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "KeyError: 'oops'")
    with pytest.raises(grpc.RpcError) as caught:
        running.call("Nothing")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert running.call("Echo") == b""


def test_health_is_answered_only_if_asked_for(running: Running) -> None:
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", wait_for_ready=True, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_stop_lets_calls_in_flight_end(run: Callable[..., Running]) -> None:
    running = run()
    assert running.call("Echo") == b""
    answers: list[bytes] = []
    call = threading.Thread(target=lambda: answers.append(running.call("Wait")))
    call.start()
    threading.Event().wait(0.2)
    ended = running.server.stop(10)
    assert not ended.wait(0.1)
    running.gate.set()
    assert ended.wait(5)
    call.join()
    assert answers == [b"done"]


def test_a_socket_in_the_file_system(run: Callable[..., Running], tmp_path: Path) -> None:
    assert run(f"unix:{tmp_path}/s").call("Echo", b"x") == b"x"


def test_a_taken_port_is_an_error(running: Running) -> None:
    with pytest.raises(OSError, match="can't listen on"):
        GrpcServer([running.address], Telemetry(), threads=1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed ``cert`` for localhost and its ``key``."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
         "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key", "-out", "cert"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_tls_with_certificates_on_both_sides(run: Callable[..., Running], certificate: Path) -> None:
    key, cert = (certificate / "key").read_text(), (certificate / "cert").read_text()

    def quoted(pem: str) -> str:
        return '"' + pem.replace("\n", "\\n") + '"'

    text = (
        f"server_key: {quoted(key)} server_cert: {quoted(cert)} custom_ca: {quoted(cert)} client_verify: true"
    )
    running = run(tls=parse_ssl_config(text))
    address = f"localhost:{running.server.ports[0]}"
    mutual = grpc.ssl_channel_credentials(cert.encode(), key.encode(), cert.encode())
    with grpc.secure_channel(address, mutual) as channel:
        assert running.call("Echo", b"secret", channel) == b"secret"
    anonymous = grpc.ssl_channel_credentials(cert.encode())
    with grpc.secure_channel(address, anonymous) as channel, pytest.raises(grpc.RpcError):
        running.call("Echo", b"secret", channel, wait_for_ready=False)
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        running.call("Echo", b"secret", channel, wait_for_ready=False)


@pytest.mark.parametrize(
    "text", ["", "server_key: 'k'", "server_key: 'k' server_cert: 'c' client_verify: true", "key: 'k'"]
)
def test_unusable_ssl_config(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_ssl_config(text)


def test_without_the_message_package_grpc_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    assert server._grpc_server(parse_options(["--model_base_path=/m"]), Telemetry()) is None
    with pytest.raises(ConfigError, match="tensorflow-serving-api"):
        server._grpc_server(parse_options(["--model_base_path=/m", "--port=1"]), Telemetry())
