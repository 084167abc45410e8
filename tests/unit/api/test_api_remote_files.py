"""Datasets fetched from paths and URLs: what is allowed, and what leads nowhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.settings import Settings
from tests.api_client import client_of

CSV = b"a,y\n" + b"".join(b"%d,%d\n" % (n, n % 2) for n in range(50))


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/sets/moved.csv":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest")
            self.end_headers()
            return
        found = self.path.startswith("/sets/")
        self.send_response(200 if found else 404)
        body = CSV if "big" not in self.path else bytes(3 * 2**20)
        self.send_header("Content-Length", str(len(body) + (100 if "cut" in self.path else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_allowed_path_is_copied_in(client: TestClient, settings: Settings) -> None:
    path: Path = settings.allowed_paths[0] / "plants.csv"
    path.write_bytes(CSV)
    answer = client.post("/datasets", json={"path": str(path)})
    assert (answer.status_code, answer.json()["name"]) == (201, "plants.csv"), answer.text
    path.write_bytes(b"")
    assert (settings.paths.datasets / answer.json()["id"] / "data.csv").read_bytes() == CSV


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_input"),
        ({"path": "x", "url": "y"}, "invalid_input"),
        ({"path": "/etc/passwd"}, "path_not_allowed"),
        ({"path": "/etc/passwd", "more": 1}, "invalid_input"),
        ({"url": "http://localhost/x"}, "url_not_allowed"),
        ({"url": "file:///etc/passwd"}, "url_not_allowed"),
    ],
)
def test_what_is_not_allowed_is_refused(client: TestClient, settings: Settings, body: Any, code: str) -> None:
    answer = client.post("/datasets", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert list(settings.paths.datasets.rglob("*")) == []


@pytest.mark.parametrize(
    ("private", "url", "status", "code"),
    [
        (True, "http://HOST/sets/a.csv", 201, None),
        (False, "http://HOST/sets/a.csv", 422, "url_not_allowed"),
        (True, "http://HOST/other/a.csv", 422, "url_not_allowed"),
        (True, "http://HOST/sets/../other/a.csv", 422, "url_not_allowed"),
        (True, "http://HOST/sets/%2e%2e/other/a.csv", 422, "url_not_allowed"),
        (True, "http://HOST/setsmore/a.csv", 422, "url_not_allowed"),
        (True, "http://me@HOST/sets/a.csv", 422, "url_not_allowed"),
        (True, "http://HOST@example.org/sets/a.csv", 422, "url_not_allowed"),
        (True, "https://HOST/sets/a.csv", 422, "url_not_allowed"),
        (True, "http://[/sets/a.csv", 422, "url_not_allowed"),
        (True, "http://HOST/sets/moved.csv", 422, "url_refused"),
        (True, "http://HOST/sets/big.csv", 413, "too_large"),
        (True, "http://HOST/sets/cut.csv", 422, "url_unreachable"),
        (True, "http://127.0.0.1:9/sets/a.csv", 422, "url_unreachable"),
        (True, "http://nobody.invalid/sets/a.csv", 422, "url_unreachable"),
    ],
)
def test_urls(settings: Settings, host: str, private: bool, url: str, status: int, code: str | None) -> None:
    prefixes = f"http://{host}/sets/ http://127.0.0.1:9/sets http://nobody.invalid/sets"
    changed = settings.model_copy(
        update={"allowed_urls": tuple(prefixes.split()), "allow_private_urls": private}
    )
    with client_of(changed) as client:
        answer = client.post("/datasets", json={"url": url.replace("HOST", host), "name": "n"})
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert bool(list(settings.paths.datasets.rglob("*"))) == (status == 201)


def test_prefixes_of_the_operator_are_checked() -> None:
    assert Settings(allowed_urls="https://a.example/x  http://b.example").allowed_urls == (  # type: ignore[arg-type]
        "https://a.example/x",
        "http://b.example",
    )
    with pytest.raises(ValueError, match="does not begin with"):
        Settings(allowed_urls="ftp://a")  # type: ignore[arg-type]
