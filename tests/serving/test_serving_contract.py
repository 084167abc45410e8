"""TensorFlow Serving's contract, statement by statement, against a running server.

Expected texts are those of tensorflow/serving's C++ sources (json_tensor.cc, http_rest_api_util.cc, http_server.cc,
predict_util.cc) and of the RapidJSON release that it uses.
"""

from __future__ import annotations

import gzip
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = pytest.mark.tf

HALF = "/v1/models/half_plus_two"


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", f"{HALF}:predict", 400, f"Malformed request: GET {HALF}:predict"),
        ("POST", f"{HALF}/metadata", 400, f"Malformed request: POST {HALF}/metadata"),
        ("POST", HALF, 400, f"Malformed request: POST {HALF}"),
        ("PUT", f"{HALF}:predict", 400, f"Malformed request: PUT {HALF}:predict"),
        ("DELETE", HALF, 400, f"Malformed request: DELETE {HALF}"),
        ("PATCH", HALF, 400, f"Malformed request: PATCH {HALF}"),
        ("POST", f"{HALF}:explain", 400, f"Malformed request: POST {HALF}:explain"),
        ("POST", f"{HALF}:PREDICT", 400, f"Malformed request: POST {HALF}:PREDICT"),
        ("POST", f"{HALF}:predict/", 400, f"Malformed request: POST {HALF}:predict/"),
        ("GET", f"{HALF}/", 400, f"Malformed request: GET {HALF}/"),
        ("GET", f"{HALF}/metadata/", 400, f"Malformed request: GET {HALF}/metadata/"),
        ("GET", f"{HALF}/version/1", 400, f"Malformed request: GET {HALF}/version/1"),
        ("GET", f"{HALF}/versions/one", 400, f"Malformed request: GET {HALF}/versions/one"),
        ("GET", f"{HALF}/versions/-1", 400, f"Malformed request: GET {HALF}/versions/-1"),
        (
            "POST",
            f"{HALF}/versions/1/labels/a:predict",
            400,
            f"Malformed request: POST {HALF}/versions/1/labels/a:predict",
        ),
        ("POST", f"{HALF}:predict?x=1", 400, f"Malformed request: POST {HALF}:predict?x=1"),
        ("POST", f"{HALF}:predict?", 400, f"Malformed request: POST {HALF}:predict?"),
        ("GET", "/v1/", 400, "Malformed request: GET /v1/"),
        ("GET", f"{HALF}?", 404, "Could not find any versions of model half_plus_two?"),
        ("GET", f"{HALF}?x=1", 404, "Could not find any versions of model half_plus_two?x=1"),
        ("GET", f"{HALF}/versions/7", 404, "Could not find version 7 of model half_plus_two"),
        ("GET", "/v1/models/no%2Fbody", 404, "Could not find any versions of model no/body"),
        ("GET", "/v1/models/no%3Abody/metadata", 404, "Servable not found for request: Latest(no:body)"),
        ("GET", f"{HALF}/labels/none/metadata", 400, "Unrecognized servable version label: none"),
    ],
)
def test_paths_that_lead_nowhere(server: Server, method: str, path: str, status: int, error: str) -> None:
    response = server.client.request(method, path)
    assert (response.status_code, response.json()) == (status, {"error": error})
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("verb", ["", "/metadata", ":predict"])
def test_a_version_beyond_64_bits_is_400_without_a_body(server: Server, verb: str) -> None:
    response = server.client.request(
        "POST" if verb == ":predict" else "GET", f"{HALF}/versions/{2**63}{verb}"
    )
    assert (response.status_code, response.content) == (400, b"")


@pytest.mark.parametrize("path", ["/", "/v2/models/m", "/v1", "/metrics", "/monitoring"])
def test_other_paths_get_the_http_librarys_page(server: Server, path: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "text/html"
    assert "<TITLE>404 Not Found</TITLE>" in response.text


@pytest.mark.parametrize(
    "path", ["/V1/MODELS/half_plus_two/VERSIONS/1:predict", f"{HALF}/versions/0001:predict",
             "/v1/models/half%5Fplus%5Ftwo:predict"],
)  # fmt: skip
def test_prefixes_in_capitals_encoded_names_and_leading_zeros(server: Server, path: str) -> None:
    assert server.client.post(path, content=b'{"inputs": 1.0}').json() == {"outputs": 2.5}


def test_a_label_in_a_status_url_is_ignored(server: Server) -> None:
    assert server.client.get(f"{HALF}/labels/none").json() == server.client.get(HALF).json()


def test_options_wants_an_origin(server: Server) -> None:
    for origin, status in (("http://a.example", 200), ("https://b", 200), ("ftp://c", 400), (None, 400)):
        response = server.client.options(HALF, headers={} if origin is None else {"Origin": origin})
        assert (response.status_code, response.content) == (status, b"")
        assert "access-control-allow-origin" not in response.headers


def test_metrics_with_a_query(server: Server) -> None:
    response = server.client.get("/monitoring/prometheus/metrics?x=1")
    assert (response.status_code, response.text) == (
        400,
        "Unexpected path: /monitoring/prometheus/metrics?x=1. Should be /monitoring/prometheus/metrics",
    )


PARSE = "JSON Parse error: "


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", PARSE + "The document is empty"),
        (b"  ", PARSE + "The document is empty. at offset: 2"),
        (b"{", PARSE + "Missing a name for object member. at offset: 1"),
        (b'{"a"}', PARSE + "Missing a colon after a name of object member. at offset: 4"),
        (b'{"a": 1', PARSE + "Missing a comma or '}' after an object member. at offset: 7"),
        (b'{"a": [1 2]}', PARSE + "Missing a comma or ']' after an array element. at offset: 9"),
        (b'{"a": tru}', PARSE + "Invalid value. at offset: 9"),
        (b'{"a": nan}', PARSE + "Invalid value. at offset: 7"),
        (b'{"a": -Inf, "inputs": +1}', PARSE + "Invalid value. at offset: 22"),
        (b'{"a": 1.}', PARSE + "Miss fraction part in number. at offset: 8"),
        (b'{"a": 1e}', PARSE + "Miss exponent in number. at offset: 8"),
        (b'{"a": 1e999}', PARSE + "Number too big to be stored in double. at offset: 6"),
        (b'{"a": "x', PARSE + "Missing a closing quotation mark in string. at offset: 8"),
        (b'{"a": "\\x"}', PARSE + "Invalid escape character in string. at offset: 7"),
        (
            b"[1, 2.50, 1e16, 1e21, NaN, true]",
            "JSON Value: [1, 2.5, 10000000000000000.0, 1e21,  Is not object",
        ),
        (b'"text"', 'JSON Value: "text" Is not object'),
        (
            b'{"signature_name": 1}',
            'JSON Value: {\n    "signature_name": 1\n} not formatted correctly.'
            " 'signature_name' key must be a string value.",
        ),
        (b'{"signature_name": "s"}', 'Serving signature name: "s" not found in signature def'),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (
            b'{"inputs": 1, "instances": [1]}',
            'JSON Value: {\n    "inputs": 1,\n    "instances": [1]\n} Not formatted correctly expecting only'
            " one of 'inputs' or 'instances' keys to exist ",
        ),
        (
            b'{"instances": {}}',
            "JSON Value: {\n    \"instances\": {}\n} Expecting 'instances' to be an list/array",
        ),
        (b'{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        (b'{"instances": [[1], {"x": 1}]}', "Expecting value/list but got object at item 1 of input list"),
        (b'{"instances": [{"x": 1}, [1]]}', "Expecting object but got list at item 1 of input list"),
        (
            b'{"instances": [{"y": 1}]}',
            "Failed to process element: 0 key: y of 'instances' list."
            " Error: INVALID_ARGUMENT: JSON object: does not have named input: y",
        ),
        (
            b'{"instances": [{}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x",
        ),
        (b'{"inputs": {"y": 1}}', "Missing named input: x in 'inputs' object."),
        (
            b'{"inputs": [true]}',
            "JSON Value: true Type: True is not of expected type: float",
        ),
        (b'{"inputs": null}', "JSON Value: null Type: Null is not of expected type: float"),
        (b'{"inputs": [["1"]]}', 'JSON Value: "1" Type: String is not of expected type: float'),
        (
            b'{"inputs": [[1], [2, 3]]}',
            "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        (b'{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            b'{"inputs": [[1], 2]}',
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            b'{"instances": [[1], [1, 2]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting tensor size: 1 but got: 2",
        ),
        (
            b'{"instances": [[1, 2], [[1, 2]]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting shape [2] but got: [1,2]",
        ),
    ],
)
def test_predict_errors(server: Server, body: bytes, error: str) -> None:
    response = server.client.post(f"{HALF}:predict", content=body)
    assert (response.status_code, response.json()["error"]) == (400, error)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            {"instances": [[1.0, 2.0]]},
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per"
            " tensorinfo_map",
        ),
        (
            {"inputs": [1.0]},
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per"
            " tensorinfo_map",
        ),
        (
            {"instances": [{"numbers": [1, 2]}]},
            "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"numbers\": [1, 2]\n}"
            " keys must be equal to: numbers,text",
        ),
        ({"inputs": {"numbers": [[1, 2]]}}, "Missing named input: text in 'inputs' object."),
        ({"inputs": {"numbers": [[1, 2]], "text": [{"b64": "YQ="}]}}, "Unable to base64 decode"),
        ({"inputs": {"numbers": [[1, 2]], "text": [{"b64": "_w=="}]}}, "Unable to base64 decode"),
        (
            {"inputs": {"numbers": [[1, 2]], "text": [{"b64": 5}]}},
            'JSON Value: {\n    "b64": 5\n} not formatted correctly for base64 data',
        ),
    ],
)
def test_errors_with_several_inputs(server: Server, body: Any, error: str) -> None:
    response = server.predict("mixed", body)
    assert (response.status_code, response.json()["error"]) == (400, error)


def test_syntax_is_looked_at_before_the_model(server: Server) -> None:
    assert server.client.post("/v1/models/nobody:predict", content=b"{").status_code == 400
    assert server.client.post("/v1/models/nobody:predict", content=b"{}").status_code == 404
    specific = server.client.post("/v1/models/half_plus_two/versions/9:predict", content=b"{}")
    assert specific.json() == {"error": "Servable not found for request: Specific(half_plus_two, 9)"}
    label = server.client.post("/v1/models/half_plus_two/labels/l:predict", content=b"{}")
    assert (label.status_code, label.json()) == (400, {"error": "Unrecognized servable version label: l"})


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"inputs": [NaN, Infinity, -Inf], "x": 1}', '"outputs": [NaN, Infinity, -Infinity]'),
        (b'{"inputs": 1, "inputs": 2}', '"outputs": 2.5'),
        (b'{"inputs": 1} and more', '"outputs": 2.5'),
        (b'{"inputs": {"x": 1, "other": 2}}', '"outputs": 2.5'),
        (b'{"inputs": []}', '"outputs": []'),
        (b'{"inputs": [[], []]}', '"outputs": [[], []]'),
        (b'{"instances": [1, 2]}', '"predictions": [2.5, 3.0\n    ]'),
        (b'{"instances": [[1, 2]]}', '"predictions": [[2.5, 3.0]\n    ]'),
        (b'{"instances": [{"x": 1}], "signature_name": ""}', '"predictions": [2.5\n    ]'),
        (b'{"inputs": 1e39}', '"outputs": Infinity'),
        (b'{"inputs": [0.1, 1e-9, 18e6, 3.3333]}', '"outputs": [2.05, 2.0, 9.000002e+06, 3.66665]'),
    ],
)
def test_values_and_layout(server: Server, body: bytes, answer: str) -> None:
    response = server.client.post(f"{HALF}:predict", content=body)
    expected = answer.replace("9.000002e+06", "9000002.0")
    assert response.text == f"{{\n    {expected}\n}}"


@pytest.mark.parametrize(
    ("value", "kind"),
    [("1.0", "Number"), ("9223372036854775808", "Number"), ("true", "True"), ('{"b64": "AA=="}', "Object")],
)
def test_whole_numbers_are_strict(server: Server, value: str, kind: str) -> None:
    body = f'{{"signature_name": "int64", "inputs": {value}}}'
    response = server.client.post("/v1/models/kinds:predict", content=body)
    assert response.status_code == 400
    assert response.json()["error"].endswith(f"Type: {kind} is not of expected type: int64")


def test_half_is_not_implemented_by_columns_and_invalid_by_rows(server: Server) -> None:
    by_columns = server.predict("kinds", {"signature_name": "from_half", "inputs": 1.0})
    by_rows = server.predict("kinds", {"signature_name": "from_half", "instances": [1.0]})
    assert (by_columns.status_code, by_rows.status_code) == (501, 400)
    assert by_rows.json()["error"].endswith(
        "Error: UNIMPLEMENTED: Conversion of JSON Value: 1.0 to type: half"
    )


def test_gzip_bodies(server: Server) -> None:
    def post(body: bytes, coding: str = "gzip") -> httpx.Response:
        return server.client.post(f"{HALF}:predict", content=body, headers={"Content-Encoding": coding})

    packed = gzip.compress(b'{"inputs": 1}')
    assert post(packed).json() == {"outputs": 2.5}
    empty = {"error": "JSON Parse error: The document is empty"}
    for broken in (b"no gzip", packed[:-3], packed + b"more", packed[:-8] + bytes(8)):
        assert post(broken).json() == empty
    assert post(gzip.compress(bytes(100 * 2**20 + 1), 1)).json() == empty
    assert post(packed, "GZIP").json()["error"].startswith("JSON Parse error: Invalid value.")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{}", "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        (
            b'{"examples": 1}',
            "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array",
        ),
        (b'{"examples": []}', "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        (b'{"examples": [[]]}', "Example must be JSON object but got JSON Array"),
        (b'{"examples": [{}], "context": 1}', "Example must be JSON object but got JSON Number"),
        (
            b'{"examples": [{"x": null}]}',
            "Feature: x has element with unexpected JSON type: Null",
        ),
        (b'{"examples": [{"x": [1, 1.5]}]}', "Unexpected element type in feature: x expecting type: int64"),
        (
            b'{"examples": [{"x": 9223372036854775808}]}',
            "Feature: x has uint64_t element. Only int64_t is supported.",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_examples_are_read_before_the_model_is_looked_up(
    server: Server, verb: str, body: bytes, error: str
) -> None:
    response = server.client.post(f"/v1/models/nobody:{verb}", content=body)
    assert (response.status_code, response.json()["error"]) == (400, error)


def test_scores_by_signatures_of_another_form(server: Server) -> None:
    def errors(verb: str, model: str, name: str) -> str:
        body = {"signature_name": name, "examples": [{"x": 1.0}]}
        return str(server.client.post(f"/v1/models/{model}:{verb}", json=body).json()["error"])

    assert errors("classify", "mixed", "serving_default") == "Expected one input Tensor."
    assert errors("regress", "examples", "classify") == "Expected one output Tensor."
    assert errors("classify", "half_plus_two", "").startswith(
        "No classification inputs found in SignatureDef"
    )
    assert errors("regress", "half_plus_two", "").startswith("No regression inputs found in SignatureDef")


def test_layout_of_scores(server: Server) -> None:
    body = {"signature_name": "classify", "examples": [{"x": 0.25}]}
    text = server.client.post("/v1/models/examples:classify", json=body).text
    assert text == '{\n    "results": [[["low", 0.75], ["high", 0.25]]\n    ]\n}'
    body["signature_name"] = "regress"
    text = server.client.post("/v1/models/examples:regress", json=body).text
    assert text == '{\n    "results": [0.5]\n}'


def test_http_1_1_connections_are_kept(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    request = (
        b'POST %s:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{"inputs": 1}' % HALF.encode()
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for _ in range(3):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"outputs": 2.5}
