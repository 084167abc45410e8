"""Do predictions feel it when versions load? (tensorflow/serving issues 1866 and 910: there they do.)"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np

from benchmarks.serving.servers import ONE, OWN, WITHOUT, served
from benchmarks.serving.traffic import JSON, measure
from benchmarks.size import sized
from benchmarks.table import Row, Table, milliseconds

SECONDS = sized(6, 2)


def while_loading(scratch: Path, models: Path) -> Table:
    """One image at a time on 8 connections, quiet and with another model's versions loading one after the other."""
    rows = []
    for kind in (
        replace(WITHOUT, command=ONE.command, copies=1, title="model server, LiteRT taken away"),
        ONE,
        OWN,
    ):
        folder = scratch / f"{kind.name}-loading"
        shutil.copytree(models, folder)
        kind.prepare(folder)
        other = folder / "other"
        other.mkdir()
        with served(kind, folder) as server:
            url, row = server.url("lenet"), np.load(models / "lenet.npz")["rows"][:1]
            measure(url, JSON, row, 8, seconds=1)
            quiet = measure(url, JSON, row, 8, seconds=SECONDS)
            loader = _Loader(folder / "lenet" / "1", other, url)
            busy = measure(url, JSON, row, 8, seconds=SECONDS)
            loads = loader.stop()
            rows.append(
                Row(
                    kind.title,
                    *(milliseconds(one) for one in (quiet.p50, quiet.p99, busy.p50, busy.p99)),
                    f"{busy.p99 / quiet.p99:.1f}",
                    str(loads),
                )
            )
    return Table(
        "Predictions while versions load",
        f"One image, 8 connections; for {SECONDS:g} s nothing else happens, then another model's versions load one"
        " after the other, as fast as they can. Target: 2.",
        ["server", "quiet: median", "99th", "loading: median", "99th", "99th against quiet", "loads"],
        rows,
    )


class _Loader:
    """Publishes version after version of a model of its own until it is stopped."""

    def __init__(self, source: Path, model: Path, url: str) -> None:
        self._source, self._model = source, model
        self._status = url.rpartition("/")[0] + f"/{model.name}"
        self._stop = threading.Event()
        self._loads = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            number = self._loads + 1
            staging = self._model / ".staging"
            shutil.copytree(self._source, staging)
            staging.rename(self._model / str(number))
            while not self._available(number) and not self._stop.is_set():
                time.sleep(0.05)
            self._loads = number

    def _available(self, version: int) -> bool:
        found = httpx.get(self._status, timeout=30).json().get("model_version_status", [])
        return any(one["version"] == str(version) and one["state"] == "AVAILABLE" for one in found)

    def stop(self) -> int:
        """How many versions have been loaded."""
        self._stop.set()
        self._thread.join()
        return self._loads
