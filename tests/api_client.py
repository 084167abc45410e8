"""The application in a test's own process, called as by a program on this machine, or from elsewhere."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # starlette's client warns of httpx once, when it is first imported
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

from services.api.app import create_app
from shared.settings import Settings

__all__ = ["TestClient", "client_of"]


def client_of(settings: Settings, *, address: str = "127.0.0.1") -> TestClient:
    """A client at ``address``; it is a context manager, which runs the application's lifespan."""
    return TestClient(
        create_app(settings),
        base_url="http://127.0.0.1:8000",
        client=(address, 50000),
        raise_server_exceptions=False,
    )
