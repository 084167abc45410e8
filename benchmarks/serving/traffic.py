"""A small load generator: keep-alive connections in a process of their own, each with one request after the other."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks.table import percentile

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Measured:
    """What one load saw."""

    per_second: float
    p50: float  # seconds
    p99: float


class Traffic:
    """Requests of the rows in ``file`` to a predict URL."""

    def __init__(self, url: str, file: Path) -> None:
        self._url = url
        self._file = file

    def check(self) -> None:
        """The server's answers are Keras' own.

        Raises:
            AssertionError: they differ.
        """
        requests = np.load(self._file)
        for count in (1, 32):
            body = {"instances": requests["rows"][:count].tolist()}
            found = np.asarray(httpx.post(self._url, json=body, timeout=60).json()["predictions"])
            np.testing.assert_allclose(found, requests["answers"][:count], atol=_TOLERANCE)

    def measure(self, rows: int, connections: int, *, seconds: float) -> Measured:
        """Load the server for ``seconds``, after a tenth of that to warm up."""
        command = [sys.executable, "-m", "benchmarks.serving.traffic", self._url, str(self._file)]
        command += [str(rows), str(connections), str(seconds)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return Measured(**found)


async def _connection(host: str, port: int, request: bytes, began: float, until: float) -> list[float]:
    reader, writer = await asyncio.open_connection(host, port)
    times = []
    while (started := time.perf_counter()) < until or not times:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode("latin-1"))
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        if started >= began or time.perf_counter() >= until:
            times.append(time.perf_counter() - started)
    writer.close()
    return times


async def _load(url: str, body: bytes, connections: int, seconds: float) -> dict[str, float]:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    began = time.perf_counter() + seconds / 10
    host, port = str(parts.hostname), int(parts.port or 80)
    loads = (_connection(host, port, request, began, began + seconds) for _ in range(connections))
    times = [one for part in await asyncio.gather(*loads) for one in part]
    return {
        "per_second": len(times) / seconds,
        "p50": percentile(times, 50),
        "p99": percentile(times, 99),
    }


if __name__ == "__main__":
    address, file, count, parallel, duration = sys.argv[1:]
    rows_sent = np.load(file)["rows"][: int(count)].tolist()
    payload = json.dumps({"instances": rows_sent}).encode()
    print(json.dumps(asyncio.run(_load(address, payload, int(parallel), float(duration)))))
