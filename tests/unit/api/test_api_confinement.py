"""Uploads and fetches stay where they belong."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.api import remote_files
from services.api.remote_files import Reach, reach_of
from shared.data_files import keras_files
from shared.errors import InvalidInput
from shared.settings import Settings
from tests.api_client import client_of
from tests.builders import train_request


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("8.8.8.8", Reach.PUBLIC), ("2606:4700::1111", Reach.PUBLIC),
        ("127.0.0.1", Reach.PRIVATE), ("::1", Reach.PRIVATE), ("10.1.2.3", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE), ("100.64.0.1", Reach.PRIVATE), ("fd00::1", Reach.PRIVATE),
        ("::ffff:127.0.0.1", Reach.PRIVATE), ("::ffff:10.0.0.1", Reach.PRIVATE), ("64:ff9b::a00:1", Reach.PRIVATE),
        ("2002:0a00:0001::1", Reach.PRIVATE),
        ("169.254.169.254", Reach.NEVER), ("fe80::1%eth0", Reach.NEVER), ("::ffff:169.254.169.254", Reach.NEVER),
        ("64:ff9b::a9fe:a9fe", Reach.NEVER), ("0.0.0.0", Reach.NEVER), ("::", Reach.NEVER), ("224.0.0.1", Reach.NEVER),
        ("ff02::1", Reach.NEVER), ("255.255.255.255", Reach.NEVER), ("240.0.0.1", Reach.NEVER),
    ],
)  # fmt: skip
def test_addresses_are_told_apart_however_they_are_written(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


class _Handler(BaseHTTPRequestHandler):
    hosts: list[str] = []

    def do_GET(self) -> None:
        self.hosts.append(self.headers["Host"])
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        if self.path == "/slow.csv":
            for _ in range(200):
                try:
                    self.wfile.write(b"a,b\n")
                except OSError:
                    return
                time.sleep(0.05)
            return
        self.wfile.write(b"a,b\n" * 25_000)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    _Handler.hosts.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def _fetch(settings: Settings, port: int, path: str = "/a.csv") -> tuple[int, dict[str, Any]]:
    prefix = f"http://data.example:{port}/"
    changed = settings.model_copy(update={"allowed_urls": (prefix,), "allow_private_urls": True})
    with client_of(changed) as client:
        answer = client.post("/datasets", json={"url": prefix.rstrip("/") + path})
    return answer.status_code, answer.json()


def _resolves_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names lead to ``answers[0]`` when first asked for, then to ``answers[1]``, ..."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def fake(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != "data.example":
            return real(host, port, *more, **named)
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return asked


def test_a_name_is_looked_up_once_and_that_address_is_connected_to(
    settings: Settings, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _resolves_to(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    status, body = _fetch(settings, port)
    assert status == 201, body
    assert asked == ["data.example"]
    assert _Handler.hosts == [f"data.example:{port}"]


@pytest.mark.parametrize("addresses", [["169.254.169.254"], ["127.0.0.1", "169.254.169.254"], ["0.0.0.0"]])
def test_link_local_addresses_are_never_fetched_from(
    settings: Settings, port: int, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    _resolves_to(monkeypatch, addresses)
    status, body = _fetch(settings, port)
    assert (status, body["code"], body["field"]) == (422, "url_not_allowed", "url")
    assert _Handler.hosts == []


def test_a_server_that_drips_is_given_up(
    settings: Settings, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resolves_to(monkeypatch, ["127.0.0.1"])
    monkeypatch.setattr(remote_files, "LONGEST_SECONDS", 0.3)
    began = time.monotonic()
    status, body = _fetch(settings, port, "/slow.csv")
    assert (status, body["code"]) == (422, "url_unreachable")
    assert time.monotonic() - began < 8
    assert list(settings.paths.datasets.rglob("*")) == []


def _png() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sink, "PNG")
    return sink.getvalue()


def _hostile_zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in ("a/1.png", "../../escaped.png", "/tmp/modelyard-escaped.png", "b/../../../escaped.png"):
            archive.writestr(name, _png())
        link = zipfile.ZipInfo("c/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return sink.getvalue()


def _hostile_tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name in ("a/1.png", "../../escaped.png", "/tmp/modelyard-escaped.png"):
            member = tarfile.TarInfo(name)
            member.size = len(_png())
            archive.addfile(member, io.BytesIO(_png()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"c/{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        device = tarfile.TarInfo("c/device.png")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    return sink.getvalue()


@pytest.mark.parametrize("make", [_hostile_zip, _hostile_tar])
def test_archives_are_never_unpacked_so_nothing_escapes(
    client: TestClient, settings: Settings, make: Any
) -> None:
    answer = client.post("/datasets", content=make(), headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code in (201, 422), answer.text
    assert "root:" not in answer.text
    assert not Path("/tmp/modelyard-escaped.png").exists()
    written = [path for path in settings.paths.root.parent.rglob("*") if path.is_file()]
    assert not [path for path in written if "escaped" in path.name]
    kept = list(settings.paths.datasets.rglob("data.*"))
    assert len(kept) == (1 if answer.status_code == 201 else 0)


def test_a_files_name_is_no_path(client: TestClient, settings: Settings) -> None:
    for name in ("../../../escaped.csv", "/tmp/escaped.csv", "..\\escaped.csv", "a\0b.csv"):
        client.post("/datasets", files={"file": (name, b"a,b\n1,2\n")})
    names = {path.name for path in settings.paths.datasets.rglob("*") if path.is_file()}
    assert names <= {"data.csv"}


def test_a_models_file_that_unpacks_to_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_files, "_MAX_CONFIG_BYTES", 10_000)
    for bomb in ("config.json", "metadata.json"):
        path = tmp_path / f"{bomb}.keras"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("config.json", "metadata.json"):
                archive.writestr(name, json.dumps({"x": "y" * (100_000 if name == bomb else 1)}))
            archive.writestr("model.weights.h5", b"")
        with pytest.raises(InvalidInput, match="larger than"):
            keras_files.inspect_keras(path)


@pytest.mark.parametrize(
    "name", ["link.csv", "folder/data.csv", "../outside/data.csv", "folder/../../outside/data.csv"]
)
def test_links_lead_out_of_no_allowed_folder(
    client: TestClient, settings: Settings, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data.csv").write_bytes(b"a,b\n1,2\n")
    allowed: Path = settings.allowed_paths[0]
    (allowed / "link.csv").symlink_to(outside / "data.csv")
    (allowed / "folder").symlink_to(outside)
    answer = client.post("/datasets", json={"path": str(allowed / name)})
    assert (answer.status_code, answer.json()["code"]) == (422, "path_not_allowed")


@pytest.mark.parametrize("name", ["~nobody-of-that-name/data.csv", "x" * 300])
def test_paths_that_can_not_be_read_are_refused(client: TestClient, settings: Settings, name: str) -> None:
    path = name if name.startswith("~") else str(settings.allowed_paths[0] / name)
    answer = client.post("/datasets", json={"path": path})
    assert (answer.status_code, answer.json()["code"]) == (422, "file_unreadable")
    answer = client.post("/jobs", json=train_request(dataset={"csv": path, "label": "a"}))
    assert (answer.status_code, answer.json()["code"]) == (422, "file_unreadable")
    assert answer.json()["field"] == "dataset.csv"
