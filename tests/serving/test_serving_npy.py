"""Predict requests whose body is a NumPy file, on a real server; and versions that need no TensorFlow."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Publish, Server, StartServer

pytestmark = pytest.mark.tf

NPY = "application/x-npy"
KERNEL = np.arange(12.0).reshape(4, 3) / 10


def send(server: Server, model: str, array: Any, query: str = "", accept: str = "*/*") -> httpx.Response:
    file = io.BytesIO()
    np.save(file, array)
    answer: httpx.Response = server.client.post(
        f"/v1/models/{model}:predict{query}",
        content=file.getvalue(),
        headers={"Content-Type": NPY, "Accept": accept},
    )
    return answer


def test_arrays_in_and_out(server: Server) -> None:
    for model, array in (
        ("half_plus_two", np.array([[1.0], [2.0]], np.float32)),
        ("half_plus_two", np.array([[1], [2]], ">i2")),
        ("half_plus_two", np.asfortranarray(np.array([[1.0], [2.0]]))),
    ):
        assert send(server, model, array).json() == {"outputs": [[2.5], [3.0]]}
        answer = send(server, model, array, accept=NPY)
        assert (answer.headers["content-type"], answer.headers["x-model-version"]) == (NPY, "1")
        found = np.load(io.BytesIO(answer.content))
        assert (found.dtype, found.tolist()) == (np.float32, [[2.5], [3.0]])
    rows = np.random.default_rng(0).uniform(-1, 1, (300, 4)).astype(np.float32)
    found = np.load(io.BytesIO(send(server, "litert", rows, accept=NPY).content))
    np.testing.assert_allclose(found, np.maximum(rows @ KERNEL + 0.5, 0), atol=1e-5)
    named = send(server, "kinds", np.array([300, -1]), "?signature_name=int64&input=x")
    assert named.status_code == 200, named.text
    for path in ("/healthz", "/readyz", "/models", "/v1/models/litert"):
        assert NPY in server.client.get(path).headers["accept-post"]


@pytest.mark.parametrize(
    ("model", "array", "query", "part"),
    [
        ("half_plus_two", np.array(["a"]), "", "arrays of <U1 can't be sent"),
        ("half_plus_two", np.array([True]), "", "an array of bool does not fit"),
        ("half_plus_two", np.zeros(1), "?signature_name=no", "not found in signature def"),
        ("half_plus_two", np.zeros(1), "?input=no", "has no input no"),
        ("half_plus_two", np.zeros(1), "?what=no", "parameter: what"),
        ("kinds", np.array([-1]), "?signature_name=uint64", "does not fit"),
        ("kinds", np.array([1.0]), "?signature_name=int64", "does not fit"),
        ("mixed", np.zeros(1), "", "name one with ?input="),
    ],
)
def test_what_does_not_fit(server: Server, model: str, array: Any, query: str, part: str) -> None:
    answer = send(server, model, array, query)
    assert (answer.status_code, part in answer.json()["error"]) == (400, True), answer.text


@pytest.mark.parametrize(
    "body", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x01\x00\x04\x00{}  "]
)
def test_bytes_that_are_no_array(server: Server, body: bytes) -> None:
    answer = server.client.post("/v1/models/litert:predict", content=body, headers={"Content-Type": NPY})
    assert (answer.status_code, "NPY error" in answer.json()["error"]) == (400, True)


def test_a_version_that_was_compared_when_it_was_published_needs_no_tensorflow(
    start_server: StartServer, publish: Publish, tmp_path: Path, grpc_port: int
) -> None:
    (tmp_path / "proven").mkdir()
    publish("proven_litert", tmp_path / "proven" / "1")
    (tmp_path / "changed").mkdir()
    with start_server(f"--models_dir={tmp_path}", f"--port={grpc_port}") as server:
        server.wait_for("proven", 1)
        maps, status = (Path(f"/proc/{server.process.pid}/{name}") for name in ("maps", "status"))
        x = np.random.default_rng(1).uniform(-1, 1, (5, 4)).astype(np.float32)
        expected = np.maximum(x @ KERNEL + 0.5, 0)
        found = server.predict("proven", {"instances": x.tolist()}).json()["predictions"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(over_grpc(grpc_port, x), expected, atol=1e-5)
        metadata = server.client.get("/v1/models/proven/metadata").json()["metadata"]["signature_def"]
        assert metadata["signature_def"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
        assert "libtensorflow" not in maps.read_text()
        resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        assert int(resident.split()[1]) < 360 * 1024
        # files of another model than the record's are loaded by TensorFlow, and compared
        version = publish("proven_litert", tmp_path / "changed" / ".1")
        with (version / "saved_model.pb").open("ab") as file:
            file.write(b"")
        data = next((version / "variables").glob("*.data*"))
        data.write_bytes(data.read_bytes() + b" ")
        version.rename(tmp_path / "changed" / "1")
        server.wait_for("changed", 1)
        assert any("nothing proves" in line for line in server.log)
        assert "libtensorflow" in maps.read_text()
        # what LiteRT may not answer is TensorFlow's, when it is asked for
        body = b'{"inputs": [[NaN, 1, 1, 1]]}'
        assert server.client.post("/v1/models/proven:predict", content=body).status_code == 200
        assert "In[0]" in server.predict("proven", {"instances": [[1.0, 2.0]]}).json()["error"]
        deadline = time.monotonic() + 10
        while not any("for a request to serving_default" in line for line in server.log):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def over_grpc(port: int, rows: Any) -> Any:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    request = PredictRequest()
    request.model_spec.name = "proven"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(rows))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = PredictionServiceStub(channel).Predict(request, timeout=30, wait_for_ready=True)
    return tf.make_ndarray(answer.outputs["y"])
