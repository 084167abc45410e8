"""URLs as TensorFlow Serving matches them."""

from __future__ import annotations

import pytest

from services.serving.errors import ServingError
from services.serving.inference import Target
from services.serving.routes import Route, VersionTooLarge, parse_route


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/v1/models/m:predict", Route("predict", Target("m"))),
        ("POST", "/V1/Models/M:predict", Route("predict", Target("M"))),
        ("POST", "/v1/models/m/versions/007:classify", Route("classify", Target("m", version=7))),
        ("POST", "/v1/models/m/labels/stable:regress", Route("regress", Target("m", label="stable"))),
        ("POST", "/v1/models/a%2Fb%3Ac:predict", Route("predict", Target("a/b:c"))),
        ("GET", "/v1/models", Route("list", Target(""))),
        ("GET", "/v1/models/m", Route("status", Target("m"))),
        ("GET", "/v1/models/m/versions/1", Route("status", Target("m", version=1))),
        ("GET", "/v1/models/m/labels/x%20y", Route("status", Target("m", label="x y"))),
        ("GET", "/v1/models/m/metadata", Route("metadata", Target("m"))),
        ("GET", "/v1/models/m/versions/1/metadata", Route("metadata", Target("m", version=1))),
        ("GET", "/v1/models/m/METADATA", Route("status", Target("m"))),
        ("GET", "/v1/models/m?x=1", Route("status", Target("m?x=1"))),
        ("GET", f"/v1/models/m/versions/{'0' * 5000}1", Route("status", Target("m", version=1))),
        ("GET", "/v1/models/m/versions/000", Route("status", Target("m", version=0))),
        ("GET", "/v1/models/m?", Route("status", Target("m?"))),
        ("GET", "/v1/models/m/versions/9223372036854775807", Route("status", Target("m", 2**63 - 1))),
    ],
)
def test_matches(method: str, path: str, route: Route) -> None:
    assert parse_route(method, path) == route


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/m:predict"),
        ("POST", "/v1/models/m/metadata"),
        ("POST", "/v1/models/m"),
        ("PUT", "/v1/models/m"),
        ("DELETE", "/v1/models/m"),
        ("POST", "/v1/models/m:explain"),
        ("POST", "/v1/models/m:PREDICT"),
        ("POST", "/v1/models/m:predict?x=1"),
        ("POST", "/v1/models/m:predict?"),
        ("POST", "/v1/models/m:predict/"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/models/m/version/1"),
        ("GET", "/v1/models/m/versions/one"),
        ("GET", "/v1/models/m/versions/-1"),
        ("GET", "/v1/models/m/versions/1/labels/x"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/a|b:predict"),
        ("POST", "/v1/models/a%zz:predict"),
        ("POST", "/v1/models/é:predict"),
        ("GET", "/v1/"),
    ],
)
def test_anything_else_is_malformed(method: str, path: str) -> None:
    with pytest.raises(ServingError) as caught:
        parse_route(method, path)
    assert caught.value.message == f"Malformed request: {method} {path}"


def test_a_version_without_a_model() -> None:
    with pytest.raises(ServingError, match=r"Missing model name in request\."):
        parse_route("GET", "/v1/models/versions/1")


@pytest.mark.parametrize("version", ["9223372036854775808", "9" * 5000])
def test_a_version_beyond_int64(version: str) -> None:
    with pytest.raises(VersionTooLarge):
        parse_route("GET", f"/v1/models/m/versions/{version}")
