"""Where the time of one prediction goes, from the body's bytes to the answer's, in one process and without a network.

What a server adds to it is HTTP and the kernel; the floor among the servers shows how little that can be.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.size import sized
from benchmarks.table import Row, Table
from services.serving import encode, plain
from services.serving.front import _Lease  # a version in use, as a front has it
from services.serving.lazy import litert_first
from services.serving.plain_predict import PlainPredictions
from services.serving.quick import QuickPredictions
from services.serving.telemetry import Telemetry
from shared.wire import parse_head

ROUNDS = sized(15, 5)
_SECONDS = 0.05  # of one round


def parts(models: Path) -> Table:
    """One row for each model and batch size; microseconds, of the quickest round."""
    rows = [
        Row(f"{model}, {count}", *_of(models, model, count))
        for model in ("lenet", "dense")
        for count in (1, 32)
    ]
    return Table(
        "Where a prediction's time goes",
        "JSON rows on LiteRT, microseconds in one process. The parts are measured by themselves, with all that they"
        " need in the processor's caches; in a row they take longer, so their sum is less than the whole. Numbers are"
        " read and written by the compiled modules, or by libraries and Python where those could not be compiled (-:"
        " that is here). Beside the whole there is HTTP, as much as the floor above takes, and the kernel's copying."
        " What is left to that floor is the numbers' text and LiteRT: binary bodies do without the former.",
        [
            "model, images",
            "body, KiB",
            "read",
            "read by libraries",
            "LiteRT",
            "write",
            "write by libraries",
            "the whole",
            "orjson alone",
        ],
        rows,
    )


def _of(models: Path, model: str, count: int) -> list[str]:
    import orjson

    servable = litert_first(str(models / model / "1"), ("serve",), cast(Any, None))
    assert servable is not None
    lease = _Lease(1, servable)
    quick = QuickPredictions(PlainPredictions(lambda *_: lease), Telemetry())
    body = json.dumps({"instances": np.load(models / f"{model}.npz")["rows"][:count].tolist()}).encode()
    head = parse_head(
        b"POST /v1/models/%s:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (model.encode(), len(body))
    )
    assert head is not None
    assert servable.block is not None
    assert quick.takes(head)
    found = plain.read_plain(body, servable.block)
    assert found is not None
    inputs = {servable.model.alias: found[1]}
    outputs = servable.model.run(inputs)
    (answers,) = outputs.values()
    row = found[1].shape[1:]
    measured = (
        _best(lambda: plain._read_compiled(body, row)) if plain._blocks else math.nan,
        _best(lambda: plain._read_flat(body, row)),
        _best(lambda: servable.model.run(inputs)),
        _best(lambda: encode._texts.write_floats(answers, answers.shape[-1])) if encode._texts else math.nan,
        _best(lambda: encode.format_floats(answers.ravel(), "%.9g")),
        _best(lambda: quick.answer(head, body, lambda _: None, cast(Any, None))),
        _best(lambda: orjson.loads(body)),
    )
    return [f"{len(body) / 1024:.0f}", *("-" if math.isnan(one) else f"{one * 1e6:.0f}" for one in measured)]


def _best(call: Callable[[], Any]) -> float:
    """Seconds of one call, in the quickest round."""
    call()
    best = float("inf")
    for _ in range(ROUNDS):
        calls, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < _SECONDS:
            call()
            calls += 1
        best = min(best, spent / calls)
    return best
