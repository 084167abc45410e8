"""TensorFlow Serving's contract over real HTTP, with real models."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = pytest.mark.tf


def test_rows_of_another_rank_than_declared_work(server: Server) -> None:
    response = server.predict("half_plus_two", {"instances": [1.0, 2.0, 5.0]})
    assert response.status_code == 200, response.text
    assert response.json() == {"predictions": [2.5, 3.0, 4.5]}
    assert response.headers["x-model-version"] == "1"


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        ({"instances": [{"x": 1.0}, {"x": 2}]}, {"predictions": [2.5, 3.0]}),
        ({"inputs": [[1.0], [2.0]]}, {"outputs": [[2.5], [3.0]]}),
        ({"inputs": {"x": 4}}, {"outputs": 4.0}),
        ({"inputs": []}, {"outputs": []}),
    ],
)
def test_layouts(server: Server, body: Any, answer: Any) -> None:
    assert server.predict("half_plus_two", body).json() == answer


def test_several_inputs_and_outputs(server: Server) -> None:
    rows = [{"numbers": [1, 2], "text": "é"}, {"numbers": [3, 4.5], "text": {"b64": "eno="}}]
    assert server.predict("mixed", {"instances": rows}).json() == {
        "predictions": [
            {"text": "é", "text_bytes": {"b64": "w6k="}, "total": 3.0},
            {"text": "zz", "text_bytes": {"b64": "eno="}, "total": 7.5},
        ]
    }
    columns = {"numbers": [[1, 2]], "text": ["a"], "unknown": 1}
    assert server.predict("mixed", {"inputs": columns}).json() == {
        "outputs": {"text": ["a"], "text_bytes": [{"b64": "YQ=="}], "total": [3.0]}
    }


@pytest.mark.parametrize(
    ("signature", "inputs", "text"),
    [
        ("int64", "[9007199254740993, -9223372036854775808]", "[9007199254740993, -9223372036854775808]"),
        ("uint64", "[18446744073709551615]", "[18446744073709551615]"),
        ("boolean", "[true, false]", "[false, true]"),
        ("scalar", "[1, 2, 3]", "6.0"),
        ("inverse", "[0.0, -0.0, NaN, 4, 3]", "[Infinity, -Infinity, NaN, 0.25, 0.333333343]"),
    ],
)
def test_values_are_exact(server: Server, signature: str, inputs: str, text: str) -> None:
    body = f'{{"signature_name": "{signature}", "inputs": {inputs}}}'
    response = server.client.post("/v1/models/kinds:predict", content=body)
    assert response.text == f'{{\n    "outputs": {text}\n}}'


@pytest.mark.parametrize(
    ("model", "body", "status", "message"),
    [
        (
            "kinds",
            {"signature_name": "half", "inputs": [1.0]},
            400,
            "Failed to write JSON value for tensor type: half",
        ),
        (
            "kinds",
            {"signature_name": "from_half", "inputs": [1.0]},
            501,
            "Conversion of JSON Value: 1.0 to type: half",
        ),
        (
            "kinds",
            {"signature_name": "scalar", "instances": [1.0]},
            400,
            "Tensor name: y has no shape information ",
        ),
        (
            "kinds",
            {"inputs": [1.0]},
            400,
            'Serving signature name: "serving_default" not found in signature def',
        ),
        ("nobody", {"inputs": [1.0]}, 404, "Servable not found for request: Latest(nobody)"),
        ("broken", {"inputs": [1.0]}, 404, "Servable not found for request: Latest(broken)"),
    ],
)
def test_errors(server: Server, model: str, body: Any, status: int, message: str) -> None:
    response = server.predict(model, body)
    assert response.status_code == status
    assert response.json() == {"error": message}


def test_an_error_of_the_graph_is_the_clients(server: Server) -> None:
    response = server.predict(
        "mixed", {"inputs": {"numbers": 1.0, "text": "a"}}
    )  # sums over axis 1 of a scalar
    assert response.status_code == 400
    assert "reduction dimension" in response.json()["error"]


def test_a_call_over_the_limit_is_a_timeout_and_health_is_answered_meanwhile(server: Server) -> None:
    answers: list[httpx.Response] = []
    body = {"signature_name": "slow", "inputs": 1_000_000_000}
    slow = threading.Thread(target=lambda: answers.append(server.predict("kinds", body)))
    slow.start()
    time.sleep(0.3)
    times = []
    with httpx.Client(base_url=server.url) as client:
        while slow.is_alive():
            began = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            times.append(time.perf_counter() - began)
            time.sleep(0.05)
    assert answers[0].status_code == 504
    assert len(times) > 5
    assert max(times) < 1.0  # the slow call would have held it for 1.2 s


def test_status_of_a_version_that_failed(server: Server) -> None:
    (status,) = server.client.get("/v1/models/broken").json()["model_version_status"]
    assert (status["version"], status["state"]) == ("1", "END")
    assert status["status"]["error_code"] == "NOT_FOUND"
    assert "Could not find SavedModel" in status["status"]["error_message"]
    assert server.client.get("/readyz").status_code == 200  # a bad model doesn't make the server unready


def test_a_version_that_loads_but_can_not_answer_is_never_available(server: Server) -> None:
    """tensorflow/serving issues 1086 and 572: "loaded successfully", then "uninitialized value" at each predict."""
    server.wait_for("without_a_variable", 1, "END")
    (status,) = server.client.get("/v1/models/without_a_variable").json()["model_version_status"]
    assert status["status"]["error_code"] == "FAILED_PRECONDITION"
    assert "Trial request to signature serving_default failed" in status["status"]["error_message"]
    assert server.predict("without_a_variable", {"instances": [1.0]}).status_code == 404


def test_a_model_that_refuses_made_up_input_is_served_all_the_same(server: Server) -> None:
    refused = server.predict("image", {"instances": [""]})
    assert refused.status_code == 400
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
    assert server.predict("image", {"instances": [{"b64": png}]}).json() == {"predictions": [128.0]}


def test_metadata(server: Server) -> None:
    answer = server.client.get("/v1/models/half_plus_two/metadata").json()
    assert answer["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "__saved_model_init_op"}
    assert signatures["serving_default"]["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
            "unknown_rank": False,
        },
        "name": "serving_default_x:0",
    }
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert signatures["serving_default"]["defaults"] == {}


def test_half_a_million_levels_do_no_harm(server: Server) -> None:
    body = b'{"inputs":' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    assert server.client.post("/v1/models/half_plus_two:predict", content=body).status_code == 400
    assert server.client.get("/healthz").status_code == 200


def test_requests_at_the_same_time_get_their_own_answers(server: Server) -> None:
    """Under load they share calls of the graph."""

    def ask(number: int) -> list[float]:
        rows = [[number + part / 8] for part in range(number % 4 + 1)]
        answer = server.predict("half_plus_two", {"instances": rows}).json()["predictions"]
        return [row[0] * 2 - 4 for row in answer]

    with ThreadPoolExecutor(16) as pool:
        for number, found in enumerate(pool.map(ask, range(300))):
            assert found == [number + part / 8 for part in range(number % 4 + 1)]


def test_large_answers_are_compressed_on_request(server: Server) -> None:
    body = {"inputs": [1.0] * 5000}

    def coding(accepted: str, body: Any = body) -> str | None:
        url = "/v1/models/half_plus_two:predict"
        response = server.client.post(url, json=body, headers={"Accept-Encoding": accepted})
        assert response.json() == {"outputs": [2.5] * len(body["inputs"])}
        return response.headers.get("content-encoding")

    assert coding("deflate, gzip;q=0.5") == "gzip"
    assert coding("gzip;q=0") is None
    assert coding("identity") is None
    assert coding("gzip", {"inputs": [1.0]}) is None  # too small to be worth it


def test_expect_continue_and_chunked_bodies(server: Server) -> None:
    def parts() -> Any:
        for part in json.dumps({"instances": [1.0]}).split(" "):
            yield part.encode()

    response = server.client.post("/v1/models/half_plus_two:predict", content=parts())
    assert response.json() == {"predictions": [2.5]}


def test_classify(server: Server) -> None:
    body = {"signature_name": "classify", "examples": [{"x": 0.25}, {"x": 1.0}]}
    response = server.client.post("/v1/models/examples:classify", json=body)
    assert response.json() == {"results": [[["low", 0.75], ["high", 0.25]], [["low", 0.0], ["high", 1.0]]]}
    assert response.headers["x-model-version"] == "1"


def test_regress_with_a_context_that_the_example_overrides(server: Server) -> None:
    body = {"signature_name": "regress", "context": {"x": 1.0}, "examples": [{}, {"x": 3.0}]}
    assert server.client.post("/v1/models/examples:regress", json=body).json() == {"results": [2.0, 6.0]}


def test_lists_and_texts_in_examples(server: Server) -> None:
    body = {"signature_name": "words", "examples": [{"n": [2, -3], "word": "é"}, {"word": {"b64": "AA=="}}]}
    assert server.client.post("/v1/models/examples:regress", json=body).json() == {"results": [-1.0, 0.0]}


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"signature_name": "regress", "examples": [{"x": 2}]}, 400, "Data types don't match"),
        (
            {"signature_name": "nothing", "examples": [{"x": 2.0}]},
            400,
            "No signature was found with the name",
        ),
        ({"signature_name": "regress"}, 400, "key 'examples' is expected and was not found"),
    ],
)
def test_regress_errors(server: Server, body: Any, status: int, part: str) -> None:
    response = server.client.post("/v1/models/examples:regress", json=body)
    assert response.status_code == status
    assert part in response.json()["error"]
    assert server.client.post("/v1/models/nobody:regress", json={"examples": [{}]}).status_code == 404
