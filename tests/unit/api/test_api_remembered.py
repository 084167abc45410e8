"""Answers kept for a moment: asked anew beside the requests, by one task, and kept while the store is away."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.api.remembered import Remembered
from shared.errors import NotFound, Unavailable

FOREVER = 3600.0


class Source:
    """Counts how often it is asked; ``gate`` holds answers back, ``error`` takes their place."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def was_asked(self, times: int) -> None:
        """Wait until it was; it is asked in a thread."""
        while self.asked < times:  # noqa: ASYNC110 - a counter, not an event
            await asyncio.sleep(0.001)

    def __call__(self) -> int:
        self.asked += 1
        number, error = self.asked, self.error
        assert self.gate.wait(30)
        if error is not None:
            raise error
        return number


def test_many_who_wait_ask_once_and_one_who_leaves_takes_nobody_along() -> None:
    async def scenario() -> None:
        source, remembered = Source(), Remembered(FOREVER)
        source.gate.clear()
        waiting = [asyncio.create_task(remembered.get("k", source)) for _ in range(10)]
        await source.was_asked(1)
        waiting[0].cancel()
        source.gate.set()
        assert await asyncio.gather(*waiting[1:]) == [1] * 9
        assert await remembered.get("k", source) == 1
        assert source.asked == 1
        await remembered.aclose()

    asyncio.run(scenario())


def test_what_grows_old_is_given_while_it_is_asked_anew() -> None:
    async def scenario() -> None:
        source, remembered = Source(), Remembered(FOREVER)
        assert await remembered.get("k", source) == 1
        remembered._known["k"].at -= FOREVER * 1.5
        source.gate.clear()
        assert await remembered.get("k", source) == 1
        assert await remembered.get("k", source) == 1
        source.gate.set()
        await remembered.aclose()
        assert (await remembered.get("k", source), source.asked) == (2, 2)
        remembered._known["k"].at -= FOREVER * 2.5
        assert await remembered.get("k", source) == 3, "too old to be given"
        remembered._known["k"].at -= 1000
        assert await remembered.get("k", source, within=5) == 4
        assert await remembered.get("k", source, within=5) == 4

    asyncio.run(scenario())


def test_what_was_asked_before_a_change_is_not_remembered_after_it() -> None:
    async def scenario() -> None:
        source, remembered = Source(), Remembered(FOREVER)
        source.gate.clear()
        early = asyncio.create_task(remembered.get("k", source))
        await source.was_asked(1)
        remembered.forget()
        late = asyncio.create_task(remembered.get("k", source))
        await source.was_asked(2)
        source.gate.set()
        assert (await early, await late) == (1, 2)
        assert await remembered.get("k", source) == 2

    asyncio.run(scenario())


def test_while_the_store_is_away_the_last_answer_is_given_and_other_errors_are_told() -> None:
    async def scenario() -> None:
        source, remembered = Source(), Remembered(FOREVER)
        source.error = Unavailable("the store is down", code="store_unavailable")
        with pytest.raises(Unavailable):
            await remembered.get("k", source)
        source.error = None
        assert await remembered.get("k", source) == 2
        source.error = Unavailable("the store is down", code="store_unavailable")
        remembered._known["k"].at -= FOREVER * 100
        assert await remembered.get("k", source) == 2
        remembered._known["k"].at -= FOREVER * 100
        source.error = NotFound("gone")
        with pytest.raises(NotFound):
            await remembered.get("k", source)

    asyncio.run(scenario())


def test_what_is_at_hand_is_given_without_waiting_and_renewed_beside_it() -> None:
    async def scenario() -> None:
        source, remembered = Source(), Remembered(100.0)
        assert remembered.at_hand("k", source) is None
        assert source.asked == 0, "who must wait asks by himself"
        assert await remembered.get("k", source) == 1
        assert remembered.at_hand("k", source) == 1
        assert source.asked == 1
        remembered._known["k"].at -= 150
        assert remembered.at_hand("k", source) == 1, "older than that, and not too old"
        await source.was_asked(2)
        while remembered.at_hand("k", source) != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        remembered._known["k"].at -= 1000
        assert remembered.at_hand("k", source) is None, "too old"
        await remembered.aclose()

    asyncio.run(scenario())
