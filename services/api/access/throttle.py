"""Rate limits per key, counted in Redis, so that all API processes share them, and in memory while Redis is away.

A process takes permits in small lots (half a per cent of the limit), so that a prediction seldom waits for Redis. What
is taken and not used by the end of a lot's short life is lost: with N processes a limit is exact to N lots.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool

from services.api.access.principal import Principal
from services.api.access.rules import Kind
from services.api.errors import RateLimited
from shared.settings import Settings

log = logging.getLogger(__name__)

LOTS = 200  # in a limit
LOT_SHARE = 0.05  # of the limit's window: a lot's life
REDIS_SECONDS = 0.25
AWAY_SECONDS = 5.0  # Redis did not answer: not asked again for so long
# Of one address with keys that are no good. Guessing is hopeless anyway; this bounds the log lines.
FAILURES = parse("60/minute")


@dataclass(slots=True)
class _Lot:
    left: int
    ends: float
    remaining: int  # of the limit, when the lot was taken
    reset: float  # by the wall clock


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left, for the answer's headers."""

    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """``RateLimit-*`` as in draft-ietf-httpapi-ratelimit-headers-06."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset_seconds),
        ]


class Throttle:
    """Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._by_role = {"request": settings.rate_limits, "prediction": settings.predict_rate_limits}
        self._memory = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._pool: ConnectionPool | None = None
        if address := _address(settings.broker_url):
            self._pool = ConnectionPool.from_url(
                address, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
            )
            storage = RedisStorage(
                f"async+{address}",
                implementation="redispy",
                wrap_exceptions=True,
                key_prefix="modelyard-limits",
                connection_pool=self._pool,  # type: ignore[arg-type]
            )
            self._shared = SlidingWindowCounterRateLimiter(storage)
        self._one_by_one = asyncio.Lock()
        self._away_until = 0.0
        self._lots: dict[tuple[str, Kind], _Lot] = {}
        self._items: dict[str, RateLimitItem] = {}

    async def spend(self, principal: Principal, kind: Kind) -> Allowance | None:
        """Count one request; None where there is no limit.

        Raises:
            RateLimited: too many.
        """
        item = self.limit(principal, kind)
        if item is None or principal.key_id is None:
            return None
        spent = self.spend_at_hand(item, principal, kind)
        if spent is None:
            place, now = (principal.key_id, kind), time.monotonic()
            spent = _spend(item, await self._take(item, place, now))
        return spent

    def limit(self, principal: Principal, kind: Kind) -> RateLimitItem | None:
        """This caller's; None: it has none."""
        if principal.key_id is None:
            return None
        own = principal.limits.predictions if kind == "prediction" else principal.limits.requests
        rate = own or self._by_role[kind].get(principal.role)
        if rate is None:
            return None
        return self._items.get(rate) or self._items.setdefault(rate, parse(rate))

    def spend_at_hand(self, item: RateLimitItem, principal: Principal, kind: Kind) -> Allowance | None:
        """Count one request from the lot that this process has; None: it has none left, and nothing was counted."""
        lot = self._lots.get((principal.key_id or "", kind))
        if lot is None or lot.left < 1 or time.monotonic() >= lot.ends:
            return None
        return _spend(item, lot)

    @asynccontextmanager
    async def looking_up(self, address: str) -> AsyncIterator[None]:
        """Around the look-up of a key that is not known yet. Of addresses with too many wrong ones lately, one is
        looked up at a time: a good key is let in from there too, and guessing holds up nobody else.
        """
        if await self._memory.test(FAILURES, "failures", address):
            yield
        else:
            async with self._one_by_one:
                yield

    async def failed(self, address: str) -> None:
        """A key from this address was no good.

        Raises:
            RateLimited: as were too many others.
        """
        if not await self._memory.hit(FAILURES, "failures", address):
            stats = await self._memory.get_window_stats(FAILURES, "failures", address)
            raise _too_many(
                FAILURES,
                stats.reset_time,
                "This key is not good, as were many others that came from this address.",
                hint="Look for the program that goes on sending an old one; a good key is let in all the same.",
            )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _take(self, item: RateLimitItem, place: tuple[str, Kind], now: float) -> _Lot:
        size = max(1, item.amount // LOTS)
        for limiter in self._limiters(now):
            try:
                for cost in (size, 1) if size > 1 else (1,):
                    if await limiter.hit(item, *place, cost=cost):
                        stats = await limiter.get_window_stats(item, *place)
                        ends = now + item.get_expiry() * LOT_SHARE
                        lot = _Lot(cost, ends, stats.remaining, stats.reset_time)
                        self._keep(place, lot, now)
                        return lot
                stats = await limiter.get_window_stats(item, *place)
            except StorageError as error:
                self._away_until = now + AWAY_SECONDS
                log.warning(
                    "rate limits are counted by each process alone: Redis does not answer (%s)", error
                )
                continue
            raise _too_many(item, stats.reset_time, f"This key may do {item} of these requests.")
        raise AssertionError("the memory always answers")

    def _keep(self, place: tuple[str, Kind], lot: _Lot, now: float) -> None:
        if len(self._lots) > 10_000:
            self._lots = {key: value for key, value in self._lots.items() if value.ends > now}
        self._lots[place] = lot

    def _limiters(self, now: float) -> list[SlidingWindowCounterRateLimiter]:
        shared = self._shared if now >= self._away_until else None
        return [self._memory] if shared is None else [shared, self._memory]


def _spend(item: RateLimitItem, lot: _Lot) -> Allowance:
    lot.left -= 1
    return Allowance(
        item.amount, lot.remaining + max(0, lot.left), max(0, math.ceil(lot.reset - time.time()))
    )


def _too_many(
    item: RateLimitItem,
    reset: float,
    message: str,
    *,
    hint: str = "An admin can raise the limit of a key or of its role.",
) -> RateLimited:
    wait = max(1, math.ceil(reset - time.time()))
    told = Allowance(item.amount, 0, wait).headers()
    headers = {"Retry-After": str(wait), **{name.decode(): value.decode() for name, value in told}}
    return RateLimited(
        message,
        headers=headers,
        hint=f"Try again in {wait} s. {hint}",
    )


def _address(broker_url: str) -> str | None:
    """Where Redis is; None if that is no address of the network."""
    if urlsplit(broker_url).scheme in ("redis", "rediss"):
        return broker_url
    return None
