"""Start, publication, configuration reload and stop of a real server."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Publish, Server, StartServer

pytestmark = pytest.mark.tf

PUBLICATIONS = 50


class Hammer:
    """Predicts a hundred times a second on one connection, until it is told to stop, and notes what it saw."""

    def __init__(self, server: Server, model: str) -> None:
        self.failures: list[str] = []
        self.versions: list[int] = []
        self._address = server.url.removeprefix("http://")
        self._path = f"/v1/models/{model}:predict"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        # the standard library's client: four of httpx's take a core, which the server needs as well
        connection = HTTPConnection(self._address, timeout=30)
        while not self._stop.is_set():
            connection.request("POST", self._path, b'{"instances": [1.0, 2.0, 5.0]}')
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or json.loads(body) != {"predictions": [2.5, 3.0, 4.5]}:
                self.failures.append(f"{response.status} {body.decode()}")
            else:
                self.versions.append(int(response.headers["x-model-version"]))
            time.sleep(0.008)
        connection.close()

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()


def resident_mb(server: Server) -> float:
    """Resident memory of the server."""
    return psutil.Process(server.process.pid).memory_info().rss / 2**20


def test_fifty_reloads_under_load_fail_no_prediction_and_memory_goes_back(
    start_server: StartServer, publish: Publish, tmp_path: Path
) -> None:
    model = tmp_path / "m"
    model.mkdir()
    publish("half_plus_two", model / "1")
    with start_server(f"--models_dir={tmp_path}") as server:
        server.wait_for("m", 1)
        hammers = [Hammer(server, "m") for _ in range(4)]
        times = []
        memory: dict[int, float] = {}
        for version in range(2, PUBLICATIONS + 2):
            publish("half_plus_two", model / str(version))
            began = time.monotonic()
            server.wait_for("m", version)
            times.append(time.monotonic() - began)
            shutil.rmtree(model / str(version - 1))
            memory[version] = resident_mb(server)
        for hammer in hammers:
            hammer.finish()
        print(
            f"publication to AVAILABLE: median {sorted(times)[len(times) // 2]:.3f} s, worst {max(times):.3f} s"
        )
        # tensorflow/serving issues 1664 and 1346: it grew with every version.
        print("resident MB:", {version: round(memory[version]) for version in (2, 10, 20, 30, 40, 50)})
        assert memory[PUBLICATIONS] - memory[10] < 30
        assert [hammer.failures for hammer in hammers] == [[], [], [], []]
        for hammer in hammers:
            assert hammer.versions == sorted(hammer.versions)
            assert hammer.versions[-1] >= PUBLICATIONS
        assert sum(len(hammer.versions) for hammer in hammers) > 100
        server.wait_for("m", PUBLICATIONS, "END")
        assert not [line for line in server.log if line.startswith(("WARNING  serving", "ERROR"))]


@dataclass
class Watching:
    """A server that was started on an empty folder, and what it said then."""

    folder: Path
    server: Server
    at_first: tuple[int, Any]


@pytest.fixture(scope="module")
def watching(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    """For tests that only add models: each start that loads one costs seconds of TensorFlow."""
    folder = tmp_path_factory.mktemp("watched")
    flags = ("--enable_model_warmup=false", "--max_num_load_retries=0")
    with start_server(f"--models_dir={folder}", *flags) as server:
        health = server.client.get("/healthz").status_code
        yield Watching(folder, server, (health, server.client.get("/v1/models").json()))


def test_the_port_is_open_before_any_model_and_new_models_are_found(
    watching: Watching, publish: Publish
) -> None:
    assert watching.at_first == (200, {"models": []})
    (watching.folder / "late").mkdir()
    # Without warm-up nobody reads its records.
    publish("half_plus_two", watching.folder / "late" / "3", warmup=b"no TFRecord at all")
    watching.server.wait_for("late", 3)
    assert watching.server.predict("late", {"instances": [1.0]}).json() == {"predictions": [2.5]}


def test_requests_for_a_listed_model_wait_for_its_first_load_and_others_do_not(
    start_server: StartServer, publish: Publish, grpc_port: int, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    publish("half_plus_two", tmp_path / "m" / "1")
    (tmp_path / "broken" / "1").mkdir(parents=True)
    config = tmp_path / "models.config"
    names = ("m", "broken", "absent")
    entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    config.write_text(f"model_config_list {{ {' '.join(entry.format(name, tmp_path) for name in names)} }}")
    with start_server(f"--model_config_file={config}", f"--port={grpc_port}") as server:
        nobody = server.predict("nobody", {"instances": [1.0]})
        assert (nobody.status_code, server.predict("absent", {"instances": [1.0]}).status_code) == (404, 404)
        assert not any("AVAILABLE" in line for line in server.log), "these need not wait"
        first = server.predict("m", {"instances": [1.0]})
        assert (first.status_code, first.json()) == (200, {"predictions": [2.5]})
        assert server.predict("broken", {"instances": [1.0]}).status_code == 404
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            call = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
            answer = call(b"\x0a\x03\x0a\x01m", wait_for_ready=True, timeout=60)
        assert answer == b"\x0a\x06\x08\x01\x10\x1e\x1a\x00", (
            "version 1, AVAILABLE: it answers once that is so"
        )


def test_a_copy_in_place_is_served_once_it_is_whole(
    start_server: StartServer, exports: Path, tmp_path: Path
) -> None:
    version = tmp_path / "m" / "1"
    (version / "variables").mkdir(parents=True)
    with start_server(f"--models_dir={tmp_path}") as server:
        time.sleep(0.5)
        shutil.copy(exports / "half_plus_two" / "saved_model.pb", version)
        time.sleep(1.5)
        assert server.versions("m") == {1: "LOADING"}
        for part in (exports / "half_plus_two" / "variables").iterdir():
            shutil.copy(part, version / "variables")
        server.wait_for("m", 1)
        assert server.predict("m", {"instances": [1.0]}).json() == {"predictions": [2.5]}


def test_a_damaged_version_ends_and_the_old_one_serves_on(
    watching: Watching, publish: Publish, exports: Path
) -> None:
    server, model = watching.server, watching.folder / "damaged"
    model.mkdir()
    publish("half_plus_two", model / "1")
    server.wait_for("damaged", 1)
    damaged = model / ".damaged"
    shutil.copytree(exports / "half_plus_two", damaged)
    (data,) = (damaged / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:3])
    damaged.rename(model / "2")
    server.wait_for("damaged", 2, "END")
    without_graph = model / ".nonsense"
    without_graph.mkdir()
    (without_graph / "saved_model.pb").write_bytes(b"nonsense")
    without_graph.rename(model / "3")
    server.wait_for("damaged", 3, "END")
    response = server.predict("damaged", {"instances": [1.0]})
    assert (response.status_code, response.headers["x-model-version"]) == (200, "1")


def test_models_config_with_policies_labels_reload_and_batching(
    start_server: StartServer, publish: Publish, tmp_path: Path
) -> None:
    base = tmp_path / "models" / "m"
    base.mkdir(parents=True)
    for version in (1, 2, 3):
        publish("half_plus_two", base / str(version))
    config = tmp_path / "models.config"

    def write(*versions: int, **labels: int) -> None:
        wanted = " ".join(f"versions: {version}" for version in versions)
        named = " ".join(f"version_labels {{ key: '{key}' value: {value} }}" for key, value in labels.items())
        text = f"""model_config_list {{ config {{ name: 'm' base_path: '{base}' model_platform: 'tensorflow'
            model_version_policy {{ specific {{ {wanted} }} }} {named} }} }}"""
        fresh = config.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(config)

    def answering(label: str) -> str:
        response = server.predict("m", {"instances": [1.0]}, f"/labels/{label}")
        return response.headers.get("x-model-version", response.text)

    write(1, 2, stable=1, canary=2)
    batching = tmp_path / "batching.config"
    batching.write_text("max_batch_size { value: 8 } batch_timeout_micros { value: 5000 }")
    with start_server(
        "--enable_batching",
        "--force_allow_any_version_labels_for_unavailable_models",
        f"--batching_parameters_file={batching}",
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=0.2",
        "--file_system_poll_wait_seconds=0.2",
    ) as server:
        server.wait_for("m", 1)
        server.wait_for("m", 2)
        assert (answering("stable"), answering("canary")) == ("1", "2")
        assert "Unrecognized servable version label" in answering("none")
        with ThreadPoolExecutor(8) as pool:  # in batches, yet to each its own
            answers = pool.map(lambda x: server.predict("m", {"instances": [float(x)] * 3}).json(), range(40))
            assert [answer["predictions"] for answer in answers] == [[x / 2 + 2] * 3 for x in range(40)]
        too_many = server.predict("m", {"instances": [1.0] * 9})
        assert "Task size 9 is larger than maximum input batch size 8" in too_many.json()["error"]
        write(2, 3, stable=2, canary=3)
        server.wait_for("m", 3)
        server.wait_for("m", 1, "END")
        assert (answering("stable"), answering("canary")) == ("2", "3")
        config.write_text("model_config_list {")  # a typing error changes nothing
        time.sleep(0.6)
        assert (answering("stable"), answering("canary")) == ("2", "3")


def test_batching_by_a_versions_own_file_and_method_names_that_are_checked(
    start_server: StartServer, publish: Publish, tmp_path: Path
) -> None:
    for name in ("alone", "batched"):
        (tmp_path / name).mkdir()
    publish("half_plus_two", tmp_path / "alone" / "1")
    publish("half_plus_two", tmp_path / ".staged")
    (tmp_path / ".staged" / "batching_params.pbtxt").write_text("max_batch_size { value: 4 }")
    (tmp_path / ".staged").rename(tmp_path / "batched" / "1")
    with start_server(
        f"--models_dir={tmp_path}",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--enable_signature_method_name_check",
    ) as server:
        server.wait_for("alone", 1)
        server.wait_for("batched", 1)
        rows = {"instances": [1.0] * 5}
        assert server.predict("alone", rows).json() == {"predictions": [2.5] * 5}
        assert "larger than maximum input batch size 4" in server.predict("batched", rows).json()["error"]
        asked = {"examples": [{"x": 1.0}]}
        classified = server.client.post("/v1/models/alone:classify", json=asked)
        assert (classified.status_code, classified.json()["error"]) == (
            400,
            "Expected classification signature method_name to be tensorflow/serving/classify."
            " Was: tensorflow/serving/predict",
        )


def test_sigterm_finishes_requests_in_flight_and_exits_with_zero(
    start_server: StartServer, publish: Publish, tmp_path: Path
) -> None:
    (tmp_path / "kinds").mkdir()
    publish("kinds", tmp_path / "kinds" / "1")
    with start_server(f"--models_dir={tmp_path}") as server:
        server.wait_for("kinds", 1)
        # Long enough to be in flight: look for a number of steps that takes about a second.
        steps = 100
        while True:
            began = time.monotonic()
            assert server.predict("kinds", {"signature_name": "slow", "inputs": steps}).status_code == 200
            if time.monotonic() - began > 0.5:
                break
            steps *= 2
        answers: list[int] = []
        body = {"signature_name": "slow", "inputs": steps}
        request = threading.Thread(target=lambda: answers.append(server.predict("kinds", body).status_code))
        request.start()
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        request.join()
        assert answers == [200]


def test_a_default_port_that_is_taken_is_done_without(tmp_path: Path) -> None:
    with socket.socket() as other:
        with suppress(OSError):  # it may be taken already
            other.bind(("127.0.0.1", 8500))
            other.listen()
        command = [
            sys.executable,
            "-m",
            "services.serving",
            "--rest_api_port=auto",
            f"--model_base_path={tmp_path}",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            lines = list(takewhile(lambda line: "listening on" not in line, process.stderr))
            assert process.poll() is None, lines
            process.terminate()
            process.communicate(timeout=20)
    assert any("gRPC is off" in line for line in lines)


def test_an_idle_server_stops_at_once(start_server: StartServer, tmp_path: Path) -> None:
    with start_server(f"--models_dir={tmp_path}") as server:
        assert server.client.get("/healthz").status_code == 200
        server.process.terminate()
        assert server.process.wait(5) == 0


def test_a_stop_does_not_wait_for_a_load(start_server: StartServer, publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    publish("half_plus_two", tmp_path / "m" / "1")
    with start_server(f"--models_dir={tmp_path}") as server:
        server.wait_for("m", 1, "LOADING")
        server.process.terminate()
        assert server.process.wait(3) == 0


def test_starting_needs_no_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys, services.serving.server; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "flag",
    [
        "--batching_parameters_file=/nowhere/batching.config",
        "--platform_config_file=/nowhere/platform.config",
        "--port=http",
        "--model_config_file=/nowhere/models.config",
        "--monitoring_config_file=/nowhere/monitoring.config",
        "--request_log=/nowhere/requests.log",
    ],
)
def test_what_is_not_done_ends_with_code_2(flag: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "services.serving",
            "--rest_api_port=auto",
            f"--model_base_path={tmp_path}",
            flag,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert flag.split("=", maxsplit=1)[0].lstrip("-") in ended.stderr or "/nowhere/" in ended.stderr
