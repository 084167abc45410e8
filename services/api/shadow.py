"""Copies of requests to a version whose answers nobody sees: they are compared with the ones given, and counted."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from services.api.keep_alive import Reply
from services.api.telemetry import Telemetry

log = logging.getLogger(__name__)

MAX_UNDER_WAY = 32  # more are left out: a slow newcomer must not fill this process
COMPARED_BYTES = 256 * 1024
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # two versions of one network, or two builds of TensorFlow, round differently


class Shadows:
    """Belongs to one event loop."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._under_way: set[asyncio.Task[None]] = set()

    def send(self, model: str, version: int, ask: Callable[[], Awaitable[Reply]], given: bytes) -> None:
        """Ask in the background what was answered with ``given``; returns at once."""
        if len(self._under_way) >= MAX_UNDER_WAY:
            self._telemetry.shadow(model, version, "left_out", None)
            return
        task = asyncio.create_task(self._compare(model, version, ask, given), name="shadow")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _compare(
        self, model: str, version: int, ask: Callable[[], Awaitable[Reply]], given: bytes
    ) -> None:
        began = time.perf_counter()
        try:
            reply = await ask()
        except Exception as error:
            log.debug("shadow of %s version %d: %s", model, version, error)
            self._telemetry.shadow(model, version, "failed", time.perf_counter() - began)
            return
        outcome = "failed" if reply.status != 200 else _outcome(given, reply.content)
        self._telemetry.shadow(model, version, outcome, time.perf_counter() - began)

    async def aclose(self) -> None:
        """Drop what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


def _outcome(given: bytes, shadowed: bytes) -> str:
    if given == shadowed:
        return "same"
    if max(len(given), len(shadowed)) > COMPARED_BYTES:
        return "not_compared"
    try:
        return "same" if alike(orjson.loads(given), orjson.loads(shadowed)) else "different"
    except (orjson.JSONDecodeError, RecursionError):  # NaN is not JSON
        return "not_compared"


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values have the same form, and numbers that differ by rounding at most."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    return bool(one == other)
