"""How the server stops."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn

from services.serving import listening
from services.serving.options import parse_options


class _App:
    stopped = 0

    def stop_waiting(self) -> None:
        self.stopped += 1


def test_a_signal_before_uvicorn_hears_them_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Callable[[int, None], None]] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    stops: list[bool] = []

    def run(server: Any, sockets: list[socket.socket]) -> None:
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        stops.append(server.should_exit)
        handlers[signal.SIGTERM](signal.SIGTERM, None)  # as uvicorn raises it again at its end

    monkeypatch.setattr(uvicorn.Server, "run", run)
    app = _App()
    with socket.socket() as listener:
        listening.serve(cast(Any, app), listener, parse_options(["--models_dir=/m"]), None, None)
    assert (stops, app.stopped) == ([True], 1)
