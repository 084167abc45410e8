"""Predictions a second: the model server against the servers that one would otherwise take.

All servers run at once, so that rounds can go through them in turn; only one is under load at a time. Answers are
checked before anything is timed. The load generator (wrk) shares the machine's cores with the server.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.serving.loading import while_loading
from benchmarks.serving.parts import parts
from benchmarks.serving.servers import BOTH, FASTAPI, ONE, TUNED, Server, kinds, served
from benchmarks.serving.through_api import through_api
from benchmarks.serving.traffic import Measured, check, measure
from benchmarks.size import SMALL, sized
from benchmarks.table import Row, Table, Tables, mebibytes, milliseconds

SECONDS = sized(2, 1)
ROUNDS = sized(2, 1)
CONNECTIONS = (8,) if SMALL else (1, 8, 32)
MODELS = BOTH[:1] if SMALL else BOTH
# encoding, rows, connections
SHAPES = [*(("json", rows, c) for rows in (1, 32) for c in CONNECTIONS), ("npy", 1, 8), ("npy", 32, 8)]
Shape = tuple[str, int, int]
Results = dict[tuple[str, str, Shape], list[Measured]]  # by server, model and shape


def run(scratch: Path) -> Tables:
    models = scratch / "models"
    subprocess.run([sys.executable, "-m", "benchmarks.serving.model", str(models)], check=True)
    notes: list[str] = []
    results: Results = defaultdict(list)
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for kind in kinds():
            folder = scratch / kind.name
            shutil.copytree(models, folder)
            kind.prepare(folder)
            try:
                servers[kind.name] = stack.enter_context(served(kind, folder))
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                notes.append(f"Left out: {kind.title} ({str(error).splitlines()[0][:200]}).")
                print(error, file=sys.stderr)
                continue
            memory[kind.name] = servers[kind.name].memory()
        _check(servers, models)
        for _ in range(ROUNDS):
            for server in servers.values():
                _measure(server, models, results, notes)
        memory = {name: max(memory[name], server.memory()) for name, server in servers.items()}
        alone = servers[ONE.name]
        api = through_api(scratch, alone.base, alone.processes[0], models / "lenet.npz", SECONDS)
    tables = [_rates(model, servers, results, memory) for model in MODELS]
    return Tables(
        [*tables, _tails(servers, results, notes), api, while_loading(scratch, models), parts(models)]
    )


def _check(servers: dict[str, Server], models: Path) -> None:
    for server in servers.values():
        for model in server.kind.models if server.kind.computes else ():
            data = np.load(models / f"{model}.npz")
            for wire in server.kind.wires.values():
                check(server.url(model), wire, data["rows"], data["answers"])


def _measure(server: Server, models: Path, results: Results, notes: list[str]) -> None:
    """All loads of one server. One that it answers with errors is left out and noted: the others shall be measured."""
    for model in MODELS:
        if model not in server.kind.models:
            continue
        rows = np.load(models / f"{model}.npz")["rows"]
        url = server.url(model)
        first = server.kind.wires["json"]
        with suppress(RuntimeError):
            measure(url, first, rows[:1], 8, seconds=1)  # warm
        for encoding, count, connections in SHAPES:
            wire = server.kind.wires.get(encoding)
            if wire is not None:
                shape = (encoding, count, connections)
                try:
                    found = measure(url, wire, rows[:count], connections, seconds=SECONDS)
                except RuntimeError as error:
                    notes.append(f"{server.kind.title} failed requests of {_heading(shape)} ({model}).")
                    print(error, file=sys.stderr)
                else:
                    results[server.kind.name, model, shape].append(found)


def _rate(results: Results, kind: str, model: str, shape: Shape) -> float | None:
    found = results.get((kind, model, shape))
    return median(one.per_second for one in found) if found else None


def _rates(model: str, servers: dict[str, Server], results: Results, memory: dict[str, float]) -> Table:
    rows = []
    for name, server in servers.items():
        if model not in server.kind.models:
            continue
        cells = []
        for shape in SHAPES:
            rate = _rate(results, name, model, shape)
            base = _rate(results, FASTAPI.name, model, ("json", *shape[1:]))
            tuned = _rate(results, TUNED.name, model, ("json", *shape[1:]))
            cells.append(
                "-"
                if rate is None
                else f"{rate:.0f}" + _times(rate, base) + (_times(rate, tuned) if tuned else "")
            )
        rows.append(Row(server.kind.title, *cells, f"{server.cold_seconds:.1f} s", mebibytes(memory[name])))
    title = "LeNet on 28x28x1" if model == "lenet" else "784-128-64-10 dense net"
    return Table(
        f"Predictions: {title}",
        "Requests a second, as multiples of FastAPI with `model(x)` and of the tuned one (binary: of their JSON). Cold"
        " start: from the command to the first answer of every model; memory: resident, all processes together. Targets"
        " with LeNet: of the tuned one 4x at c1, 6x (1 image) and 7x (32) at c8; cold below 2 s and 360 MB.",
        ["server", *(_heading(shape) for shape in SHAPES), "cold", "memory"],
        rows,
    )


def _times(rate: float, base: float | None) -> str:
    return f", {rate / base:.1f}x" if base else ""


def _heading(shape: Shape) -> str:
    encoding, rows, connections = shape
    return f"{encoding}, {rows} image{'s' * (rows > 1)}, c{connections}"


def _tails(servers: dict[str, Server], results: Results, notes: list[str]) -> Table:
    rows = []
    shapes = [shape for shape in SHAPES if shape[2] == CONNECTIONS[-1 if SMALL else 1]]
    for name, server in servers.items():
        cells = []
        for shape in shapes:
            found = results.get((name, "lenet", shape))
            if not found:
                cells.append("-")
                continue
            p50, p99 = median(one.p50 for one in found), median(one.p99 for one in found)
            cells.append(f"{milliseconds(p50)}, {milliseconds(p99)}, {p99 / p50:.1f}")
        rows.append(Row(server.kind.title, *cells))
    about = (
        "LeNet at 8 connections: median, 99th percentile, and how often the one is in the other. Target: 3."
    )
    return Table("Latency", " ".join([about, *notes]), ["server", *map(_heading, shapes)], rows)
