"""TensorFlow Serving's gRPC API with the official messages, on a real server."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Publish, Server, StartServer

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def tf() -> Any:
    import tensorflow

    return tensorflow


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        grpc.channel_ready_future(channel).result(60)
        yield channel


@pytest.fixture(scope="module")
def prediction(tf: Any, channel: grpc.Channel) -> Any:
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    return PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model_service(tf: Any, channel: grpc.Channel) -> Any:
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub

    return ModelServiceStub(channel)


def predict_request(tf: Any, model: str, signature: str = "", **inputs: Any) -> Any:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


def examples_request(tf: Any, kind: Any, signature: str, *values: float) -> Any:
    request = kind()
    request.model_spec.name = "examples"
    request.model_spec.signature_name = signature
    fill_examples(tf, request.input, *values)
    return request


def fill_examples(tf: Any, given: Any, *values: float) -> None:
    for value in values:
        feature = given.example_list.examples.add().features.feature["x"]
        feature.float_list.value.append(value)


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


def failure(call: Any, request: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, **options)
    return caught.value.code(), caught.value.details()


def test_predict(tf: Any, prediction: Any) -> None:
    request = predict_request(tf, "half_plus_two", x=floats(1, 2, 5))
    response = prediction.Predict(request)
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 1, "serving_default")
    request.model_spec.version.value = 1
    assert prediction.Predict(request, timeout=20) == response


def test_types_and_shapes_survive(tf: Any, prediction: Any) -> None:
    singles = floats(1, 0.1)
    for signature, values, expected in (
        ("int64", np.array([2**53 + 1, -(2**63)]), None),
        ("uint64", np.array([[2**64 - 1]], np.uint64), None),
        ("boolean", np.array([True, False]), np.array([False, True])),
        ("half", singles, singles.astype(np.float16)),
        ("from_half", np.array([[0.5], [65504]], np.float16), np.array([[0.5], [65504]], np.float32)),
    ):
        response = prediction.Predict(predict_request(tf, "kinds", signature, x=values))
        answer = tf.make_ndarray(response.outputs["y"])
        wanted = values if expected is None else expected
        assert (answer.dtype, answer.tolist()) == (wanted.dtype, wanted.tolist())


def test_bytes_and_an_output_filter(tf: Any, prediction: Any) -> None:
    request = predict_request(tf, "mixed", numbers=floats(1, 2).reshape(1, 2), text=[b"\xff\x00"])
    assert prediction.Predict(request).outputs["text"].string_val == [b"\xff\x00"]
    request.output_filter.append("total")
    assert {alias: list(one.float_val) for alias, one in prediction.Predict(request).outputs.items()} == {
        "total": [3.0]
    }
    request.output_filter.append("total")
    assert failure(prediction.Predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT, "duplicate output tensor alias: total",
    )  # fmt: skip
    request.output_filter[1] = "none"
    assert failure(prediction.Predict, request)[1].startswith(
        "output tensor alias not found in signature: none"
    )


def test_predict_errors(tf: Any, prediction: Any) -> None:
    code = grpc.StatusCode
    x = floats(1)

    def fails(request: Any) -> tuple[grpc.StatusCode, str]:
        return failure(prediction.Predict, request)

    empty = predict_request(tf, "", x=x)
    assert fails(empty) == (code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    empty.ClearField("model_spec")
    assert fails(empty) == (code.INVALID_ARGUMENT, "Missing ModelSpec")
    assert fails(predict_request(tf, "nobody", x=x)) == (
        code.NOT_FOUND, "Servable not found for request: Latest(nobody)",
    )  # fmt: skip
    labelled = predict_request(tf, "half_plus_two", x=x)
    labelled.model_spec.version_label = "none"
    assert fails(labelled) == (code.INVALID_ARGUMENT, "Unrecognized servable version label: none")
    assert fails(predict_request(tf, "half_plus_two", "s", x=x)) == (
        code.FAILED_PRECONDITION, 'Serving signature key "s" not found.',
    )  # fmt: skip
    assert fails(predict_request(tf, "half_plus_two", x=x, z=x)) == (
        code.INVALID_ARGUMENT,
        "input size does not match signature: 2!=1 len({x,z}) != len({x})."
        " Sent extra: {z}. Missing but required: {}.",
    )
    assert fails(predict_request(tf, "half_plus_two", z=x))[1].startswith(
        "Signature input alias: x(feed name: "
    )
    assert fails(predict_request(tf, "half_plus_two", x=[True])) == (
        code.INVALID_ARGUMENT, "Expects arg[0] to be float but bool is provided",
    )  # fmt: skip
    odd = predict_request(tf, "half_plus_two", x=floats(1, 2))
    odd.inputs["x"].tensor_shape.dim[0].size = 1
    assert fails(odd)[1].startswith("tensor parsing error: x")
    graph = fails(predict_request(tf, "mixed", numbers=np.float32(1), text="a"))
    assert graph[0] is code.INVALID_ARGUMENT
    assert "reduction dimension" in graph[1]


def test_the_deadline_of_a_call_ends_the_graph(tf: Any, prediction: Any, server: Server) -> None:
    request = predict_request(tf, "kinds", "slow", n=np.int32(1_000_000_000))
    began = time.monotonic()
    assert failure(prediction.Predict, request, timeout=0.7)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5
    assert server.request_log is not None
    deadline = time.monotonic() + 10
    while '"api": "Predict", "model": "kinds", "version": 1, "signature": "slow"' not in (
        text := server.request_log.read_text()
    ):
        assert time.monotonic() < deadline, "the graph runs on"
        time.sleep(0.02)
    (entry,) = [json.loads(line) for line in text.splitlines() if '"slow"' in line and '"Predict"' in line]
    assert entry["status"] == "DEADLINE_EXCEEDED"


def test_messages_of_many_megabytes(tf: Any, prediction: Any) -> None:
    values = np.arange(5_000_000, dtype=np.float32)  # 20 MB, as bytes
    response = prediction.Predict(predict_request(tf, "half_plus_two", x=values))
    answer = np.array(response.outputs["y"].float_val, np.float32)
    np.testing.assert_allclose(answer, values / 2 + 2)


def test_classify_regress_and_both(tf: Any, prediction: Any) -> None:
    from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

    request = examples_request(tf, classification_pb2.ClassificationRequest, "classify", 0.25, 1.0)
    response = prediction.Classify(request)
    assert [[(one.label, one.score) for one in row.classes] for row in response.result.classifications] == [
        [("low", 0.75), ("high", 0.25)],
        [("low", 0.0), ("high", 1.0)],
    ]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (1, "classify")
    request = examples_request(tf, regression_pb2.RegressionRequest, "regress", 2.0)
    assert [one.value for one in prediction.Regress(request).result.regressions] == [4.0]
    request.model_spec.signature_name = "none"
    assert failure(prediction.Regress, request) == (
        grpc.StatusCode.INVALID_ARGUMENT, "No signature was found with the name: none",
    )  # fmt: skip
    request.model_spec.signature_name = "regress"
    request.input.Clear()
    assert failure(prediction.Regress, request) == (grpc.StatusCode.INVALID_ARGUMENT, "Input is empty.")

    multi = inference_pb2.MultiInferenceRequest()
    fill_examples(tf, multi.input, 0.5)
    for method in ("classify", "regress"):
        task = multi.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "examples", method
    found = prediction.MultiInference(multi).results
    assert [one.WhichOneof("result") for one in found] == ["classification_result", "regression_result"]
    assert found[1].regression_result.regressions[0].value == 1.0
    multi.tasks[1].model_spec.signature_name = "classify"
    assert failure(prediction.MultiInference, multi)[1] == "Duplicate evaluation of signature: classify"
    multi.tasks[1].model_spec.name = "mixed"
    assert "same model name" in failure(prediction.MultiInference, multi)[1]
    multi.tasks[1].model_spec.name = "examples"
    multi.tasks[1].model_spec.signature_name = "regress"
    multi.tasks[1].method_name = "tensorflow/serving/predict"
    assert failure(prediction.MultiInference, multi)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_what_is_looked_at_first(tf: Any, prediction: Any, model_service: Any, server: Server) -> None:
    """The model, then the names, then each tensor, then its type: TensorFlow Serving's order."""
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        predict_pb2,
    )

    invalid, not_found = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    request = predict_pb2.PredictRequest()
    assert failure(prediction.Predict, request) == (invalid, "Missing ModelSpec")
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=3)
    request.inputs["x"].tensor_content = b"123"
    request.model_spec.SetInParent()
    assert failure(prediction.Predict, request) == (invalid, "ModelSpec has no name specified.")
    request.model_spec.name = "nobody"
    assert failure(prediction.Predict, request) == (
        not_found, "Servable not found for request: Latest(nobody)",
    )  # fmt: skip
    request.model_spec.name = "half_plus_two"
    assert failure(prediction.Predict, request) == (invalid, "tensor parsing error: x")
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([True]))
    assert failure(prediction.Predict, request) == (
        invalid, "Expects arg[0] to be float but bool is provided",
    )  # fmt: skip
    # A signature without inputs has no REST form.
    answer = prediction.Predict(predict_request(tf, "kinds", "constant"))
    assert list(answer.outputs["y"].float_val) == [42.0]
    over_rest = server.predict("kinds", {"signature_name": "constant", "instances": [1]})
    assert over_rest.json() == {"error": "Failed to get input map for signature: constant"}

    status = get_model_status_pb2.GetModelStatusRequest()
    assert failure(model_service.GetModelStatus, status) == (invalid, "Missing ModelSpec")
    status.model_spec.SetInParent()
    assert failure(model_service.GetModelStatus, status) == (
        not_found, "Could not find any versions of model ",
    )  # fmt: skip
    metadata = get_model_metadata_pb2.GetModelMetadataRequest()
    metadata.model_spec.SetInParent()
    assert failure(prediction.GetModelMetadata, metadata) == (
        invalid, "GetModelMetadataRequest must specify at least one metadata_field",
    )  # fmt: skip
    assert failure(prediction.MultiInference, inference_pb2.MultiInferenceRequest()) == (
        invalid, "ModelSpec has no name specified.",
    )  # fmt: skip
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "mixed", "serving_default"
    assert failure(prediction.Classify, classify) == (invalid, "Expected one input Tensor.")
    classify.model_spec.name, classify.model_spec.signature_name = "examples", "classify"
    assert failure(prediction.Classify, classify) == (invalid, "Input is empty.")


def test_metadata_and_status(tf: Any, prediction: Any, model_service: Any, server: Server) -> None:
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "half_plus_two"
    assert failure(prediction.GetModelMetadata, request)[0] is grpc.StatusCode.INVALID_ARGUMENT
    request.metadata_field.append("signature_def")
    response = prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    spec = signatures.signature_def["serving_default"].inputs["x"]
    assert (spec.name, [dim.size for dim in spec.tensor_shape.dim]) == ("serving_default_x:0", [-1, 1])
    request.metadata_field[0] = "other"
    assert failure(prediction.GetModelMetadata, request)[0] is grpc.StatusCode.INVALID_ARGUMENT

    ask = get_model_status_pb2.GetModelStatusRequest()
    ask.model_spec.name = "half_plus_two"
    (one,) = model_service.GetModelStatus(ask).model_version_status
    assert (one.version, one.state, one.status.error_code) == (1, one.AVAILABLE, 0)
    ask.model_spec.name = "broken"
    (one,) = model_service.GetModelStatus(ask).model_version_status
    assert (one.state, one.status.error_code) == (one.END, 5)
    ask.model_spec.name = "nobody"
    assert failure(model_service.GetModelStatus, ask) == (
        grpc.StatusCode.NOT_FOUND, "Could not find any versions of model nobody",
    )  # fmt: skip


def test_health_and_what_is_not_there(channel: grpc.Channel) -> None:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"") == b"\x08\x01"
    assert check(b"\x0a\x0cModelService") == b"\x08\x01"
    assert failure(check, b"\x0a\x04none")[0] is grpc.StatusCode.NOT_FOUND
    session_run = channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    assert failure(session_run, b"")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_health_is_watched_without_a_thread_each_until_the_server_stops(
    start_server: StartServer, tmp_path: Path, grpc_port: int
) -> None:
    flags = ["--enable_grpc_healthcheck_service", "--grpc_max_threads=2"]
    flags += [f"--models_dir={tmp_path}", f"--port={grpc_port}"]
    with start_server(*flags) as server, grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        grpc.channel_ready_future(channel).result(60)
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        known = [watch(b"", timeout=120) for _ in range(10)]
        assert [next(one) for one in known] == [b"\x08\x01"] * 10
        unknown = watch(b"\x0a\x04none", timeout=120)
        assert next(unknown) == b"\x08\x03"
        unknown.cancel()
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60) == b"\x08\x01"
        server.process.terminate()
        for one in known:
            assert next(one) == b"\x08\x02"
            assert next(one, None) is None
        assert server.process.wait(60) == 0


def test_reload_over_grpc_and_a_call_in_flight_at_the_end(
    tf: Any, start_server: StartServer, publish: Publish, exports: Path, tmp_path: Path, grpc_port: int
) -> None:
    from tensorflow_serving.apis import model_management_pb2
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    for name in ("first", "second", "nothing"):
        (tmp_path / name).mkdir()
    publish("half_plus_two", tmp_path / "first" / "1")
    publish("kinds", tmp_path / "second" / "1")
    (tmp_path / "bad").mkdir()
    shutil.copytree(exports / "without_a_variable", tmp_path / "bad" / "1")

    def reload(*names: str, **labels: int) -> Any:
        request = model_management_pb2.ReloadConfigRequest(
            metric_names=["/tensorflow/cc/saved_model/load_attempt_count", "unknown"]
        )
        for name in names:
            entry = request.config.model_config_list.config.add(
                name=name, base_path=str(tmp_path / name), model_platform="tensorflow"
            )
            for label, version in labels.items():
                entry.version_labels[label] = version
        return request

    port = grpc_port
    with (
        start_server(
            "--model_name=first",
            f"--model_base_path={tmp_path / 'first'}",
            f"--port={port}",
            "--enable_serialization_as_tensor_content",
            "--grpc_channel_arguments=grpc.max_connection_age_ms=600000",
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        server.wait_for("first", 1)
        grpc.channel_ready_future(channel).result(60)
        management, prediction = ModelServiceStub(channel), PredictionServiceStub(channel)
        answer = prediction.Predict(predict_request(tf, "first", x=floats(1))).outputs["y"]
        assert (answer.tensor_content, list(answer.float_val)) == (floats(2.5).tobytes(), [])
        # Started by TensorFlow Serving's flags alone it has no list of models at TensorFlow Serving's own place.
        missing = server.client.get("/v1/models")
        assert (missing.status_code, missing.json()) == (400, {"error": "Missing model name in request."})
        assert [one["name"] for one in server.client.get("/models").json()["models"]] == ["first"]
        # A label of a version that is not there yet is refused, with all that came with it.
        code, text = failure(
            management.HandleReloadConfigRequest, reload("first", "second", stable=1), timeout=60
        )
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "version 1 of model second, which is not currently available for inference" in text
        assert server.versions("second") == {}
        response = management.HandleReloadConfigRequest(reload("first", "second"), timeout=60)
        assert response.status.error_code == 0
        assert [(one.name, one.int64_value_increase) for one in response.metric] == [
            ("/tensorflow/cc/saved_model/load_attempt_count", 1),
            ("unknown", 0),
        ]
        management.HandleReloadConfigRequest(reload("first", "second", stable=1), timeout=60)
        labelled = predict_request(tf, "second", "scalar", x=floats(1, 2))
        labelled.model_spec.version_label = "stable"
        assert prediction.Predict(labelled).model_spec.version.value == 1
        # Neither a model without versions nor a broken one holds the call up, nor the next one.
        code, text = failure(
            management.HandleReloadConfigRequest, reload("second", "nothing", "bad"), timeout=60
        )
        assert code is grpc.StatusCode.UNKNOWN
        assert text.startswith("2 model(s) did not become available")
        assert "{name: nothing} has no version in" in text
        server.wait_for("first", 1, "END")
        empty = model_management_pb2.ReloadConfigRequest()
        assert failure(management.HandleReloadConfigRequest, empty)[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert management.HandleReloadConfigRequest(reload("second"), timeout=60).status.error_code == 0

        steps = 2000
        while True:
            began = time.monotonic()
            prediction.Predict(predict_request(tf, "second", "slow", n=np.int32(steps)))
            if time.monotonic() - began > 0.5:
                break
            steps *= 2
        answers: list[Any] = []
        slow = predict_request(tf, "second", "slow", n=np.int32(steps))
        call = threading.Thread(target=lambda: answers.append(prediction.Predict(slow)))
        call.start()
        time.sleep(0.2)
        server.process.terminate()
        assert server.process.wait(30) == 0
        call.join()
        assert len(answers) == 1
