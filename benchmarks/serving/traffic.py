"""Load by wrk, with answers checked before anything is timed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.tools import wrk

_TOLERANCE = 1e-4
_SCRIPT = """
wrk.method = "POST"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = os.getenv("TYPE")
wrk.headers["Accept"] = os.getenv("TYPE")
done = function(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format('\\nMEASURED {"requests": %d, "microseconds": %d, "p50": %f, "p99": %f, "failed": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), failed))
end
"""


@dataclass(frozen=True)
class Measured:
    """What one load saw; times in seconds."""

    per_second: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Wire:
    """How rows are sent, and what comes back is read."""

    content_type: str
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]


def _to_npy(rows: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def _v2(rows: Any) -> bytes:
    tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor], "parameters": {"content_type": "np"}}).encode()


def _from_v2(answer: bytes) -> Any:
    (tensor,) = json.loads(answer)["outputs"]
    return np.asarray(tensor["data"]).reshape(tensor["shape"])


def _instances(rows: Any) -> bytes:
    return json.dumps({"instances": rows.tolist()}).encode()


JSON = Wire("application/json", _instances, lambda answer: json.loads(answer)["predictions"])
BARE = Wire("application/json", _instances, json.loads)
V2 = Wire("application/json", _v2, _from_v2)
NPY = Wire("application/x-npy", _to_npy, lambda answer: np.load(io.BytesIO(answer)))


def ask(url: str, wire: Wire, rows: Any) -> Any:
    """One request's answer as an array.

    Raises:
        httpx.HTTPError: it is no 200.
    """
    headers = {"Content-Type": wire.content_type, "Accept": wire.content_type}
    answer = httpx.post(url, content=wire.write(rows), headers=headers, timeout=60)
    answer.raise_for_status()
    return np.asarray(wire.read(answer.content))


def measure(url: str, wire: Wire, rows: Any, connections: int, *, seconds: float) -> Measured:
    """Load ``url`` for ``seconds`` by ``connections`` that each send one request after the other.

    Raises:
        RuntimeError: a request failed.
    """
    tool = wrk()
    with tempfile.TemporaryDirectory() as folder:
        script, body = Path(folder) / "post.lua", Path(folder) / "body"
        script.write_text(_SCRIPT)
        body.write_bytes(wire.write(rows))
        found = subprocess.run(
            [*tool.command, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout=30s", "-s", str(script), url],
            env={**os.environ, **tool.environment, "BODY": str(body), "TYPE": wire.content_type},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    line = next(line for line in found.stdout.splitlines() if line.startswith("MEASURED "))
    result = json.loads(line.removeprefix("MEASURED "))
    if result["failed"] or not result["requests"]:
        raise RuntimeError(f"{url}: {found.stdout}")
    return Measured(
        result["requests"] / result["microseconds"] * 1e6, result["p50"] / 1e6, result["p99"] / 1e6
    )


def check(url: str, wire: Wire, rows: Any, answers: Any) -> None:
    """The server's answers are Keras' own.

    Raises:
        AssertionError: they differ.
    """
    for count in (1, 32):
        np.testing.assert_allclose(ask(url, wire, rows[:count]), answers[:count], atol=_TOLERANCE)


class Traffic:
    """JSON requests of the rows in ``file`` to a predict URL, with ``fields`` beside them in the body."""

    def __init__(self, url: str, file: Path, fields: Mapping[str, str] = MappingProxyType({})) -> None:
        self._url = url
        data = np.load(file)
        self._rows, self._expected = data["rows"], data["answers"]
        self._wire = Wire(
            "application/json",
            lambda rows: json.dumps({**fields, "instances": rows.tolist()}).encode(),
            lambda answer: json.loads(answer)["predictions"],
        )

    def check(self) -> None:
        """See ``check``."""
        check(self._url, self._wire, self._rows, self._expected)

    def measure(self, rows: int, connections: int, *, seconds: float) -> Measured:
        """See ``measure``."""
        return measure(self._url, self._wire, self._rows[:rows], connections, seconds=seconds)
