"""Watches the newcomers among versions, and withdraws one that leaves the bounds of its label's guard.

Each API process judges by the requests that it passed on itself; the first to see a bound broken writes, and a route
that has changed since is left alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.api.routing import Choice
from shared.specs.traffic import Guard, LabelRoute

log = logging.getLogger(__name__)

JUDGE_SECONDS = 0.5  # between two looks at one label
# A route that still gets requests so long after its newcomer was withdrawn was set again, or could not be written.
ACT_AGAIN_SECONDS = 5.0
# Latencies are counted in buckets that grow by 5 %, from 0.1 ms to about an hour.
_SMALLEST, _GROWTH, _BUCKETS = 1e-4, math.log(1.05), 360


@dataclass(slots=True)
class Tally:
    """Requests of one second to one target."""

    second: int
    requests: int = 0
    failed: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, ok: bool, seconds: float) -> None:
        """Count one."""
        self.requests += 1
        self.failed += not ok
        index = min(_BUCKETS, max(0, int(math.log(max(seconds, _SMALLEST) / _SMALLEST) / _GROWTH)))
        self.buckets[index] = self.buckets.get(index, 0) + 1


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a window: ``p95`` in seconds, 0 without requests."""

    requests: int = 0
    failed: int = 0
    p95: float = 0.0

    @property
    def error_rate(self) -> float:
        """Failed over all; 0 without requests."""
        return self.failed / self.requests if self.requests else 0.0

    def shown(self) -> dict[str, Any]:
        """For people and events."""
        return {
            "requests": self.requests,
            "error_rate": round(self.error_rate, 4),
            "p95_ms": round(self.p95 * 1000, 1),
        }


class Window:
    """The last seconds of one target."""

    def __init__(self) -> None:
        self._tallies: deque[Tally] = deque()

    def add(self, now: float, ok: bool, seconds: float) -> None:
        """Count one request that ended at ``now``, seconds on any clock that never goes back."""
        if not self._tallies or self._tallies[-1].second != int(now):
            self._tallies.append(Tally(int(now)))
        self._tallies[-1].add(ok, seconds)

    def summary(self, now: float, seconds: float) -> Summary:
        """Of the last ``seconds``; what is older is dropped."""
        while self._tallies and self._tallies[0].second < now - seconds:
            self._tallies.popleft()
        requests = sum(tally.requests for tally in self._tallies)
        if not requests:
            return Summary()
        counts: dict[int, int] = {}
        for tally in self._tallies:
            for index, count in tally.buckets.items():
                counts[index] = counts.get(index, 0) + count
        left = math.ceil(requests * 0.95)
        for index in sorted(counts):
            left -= counts[index]
            if left <= 0:
                break
        p95 = _SMALLEST * math.exp(_GROWTH * (index + 0.5))
        return Summary(requests, sum(tally.failed for tally in self._tallies), p95)


class Guards:
    """Belongs to one event loop. ``withdraw`` gets (model, label, route as seen, target, reason); it must not block."""

    def __init__(
        self,
        withdraw: Callable[[str, str, LabelRoute, str, dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._withdraw = withdraw
        self._clock = clock
        self._watched: dict[tuple[str, str], _Watched] = {}

    def report(self, model: str, choice: Choice, *, ok: bool, seconds: float) -> None:
        """One request was answered, or failed, after ``seconds``."""
        route = choice.route
        if route is None or choice.label is None or choice.target is None:
            return
        key = (model, choice.label)
        if route.guard is None:
            self._watched.pop(key, None)
            return
        now = self._clock()
        watched = self._watched.get(key)
        if watched is None or watched.route != route or now - watched.acted >= ACT_AGAIN_SECONDS:
            watched = self._watched[key] = _Watched(route)
        watched.windows.setdefault(choice.target, Window()).add(now, ok, seconds)
        if now >= watched.next_look and watched.acted == math.inf:
            watched.next_look = now + JUDGE_SECONDS
            found = judge(route, route.guard, watched.summaries(now))
            if found is not None:
                watched.acted = now
                target, reason = found
                log.warning("%s/%s: %s is withdrawn: %s", model, choice.label, target, reason["reason"])
                self._withdraw(model, choice.label, route, target, reason)

    def forget(self, model: str, label: str) -> None:
        """Watch anew."""
        self._watched.pop((model, label), None)

    def summaries(self, model: str, label: str) -> dict[str, dict[str, Any]]:
        """What this process has seen of a guarded label, by target."""
        watched = self._watched.get((model, label))
        if watched is None:
            return {}
        return {target: found.shown() for target, found in watched.summaries(self._clock()).items()}


class _Watched:
    def __init__(self, route: LabelRoute) -> None:
        self.route = route
        self.windows: dict[str, Window] = {}
        self.next_look = 0.0
        self.acted = math.inf  # when it withdrew; the store's new route takes a moment to be seen

    def summaries(self, now: float) -> dict[str, Summary]:
        seconds = self.route.guard.window_seconds if self.route.guard else 0.0
        return {target: window.summary(now, seconds) for target, window in self.windows.items()}


def judge(route: LabelRoute, guard: Guard, found: dict[str, Summary]) -> tuple[str, dict[str, Any]] | None:
    """The first newcomer that has left a bound, and why; None if none has.

    Errors that the other side has in the same share are the callers' own, and count against nobody.
    """
    main = route.heaviest
    for target in route.weights:
        if target == main and len(route.weights) > 1:
            continue
        seen = found.get(target, Summary())
        other = found.get(main, Summary()) if target != main else Summary()
        if seen.requests < guard.min_requests:
            continue
        reason = _broken(guard, seen, other)
        if reason is not None:
            facts = {"reason": reason, "seen": seen.shown()}
            return target, {**facts, "other": other.shown()} if target != main else facts
    return None


def _broken(guard: Guard, seen: Summary, other: Summary) -> str | None:
    excess = seen.error_rate - other.error_rate
    if guard.max_error_rate is not None and excess > guard.max_error_rate:
        return (
            f"{seen.error_rate:.1%} of {seen.requests} requests failed, against {other.error_rate:.1%} on the other "
            f"side; at most {guard.max_error_rate:.1%} more are allowed"
        )
    if guard.max_p95_ms is not None and seen.p95 * 1000 > guard.max_p95_ms:
        return (
            f"95 % of {seen.requests} requests took up to {seen.p95 * 1000:.0f} ms; at most {guard.max_p95_ms:g} ms "
            "are allowed"
        )
    enough = other.requests >= guard.min_requests
    if guard.max_p95_ratio is not None and enough and seen.p95 > guard.max_p95_ratio * other.p95:
        return (
            f"95 % of requests took up to {seen.p95 * 1000:.0f} ms, against {other.p95 * 1000:.0f} ms on the other "
            f"side; at most {guard.max_p95_ratio:g} times as long is allowed"
        )
    return None
