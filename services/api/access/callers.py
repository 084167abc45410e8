"""From a key or a session's cookie to a ``Principal``, without asking the store for each request."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

from anyio import to_thread
from pydantic import SecretStr

from services.api.access.principal import Limits, Principal
from shared.errors import Unavailable
from shared.keys import Role, digest, matches, prefix_of
from shared.store import Key, Store

log = logging.getLogger(__name__)

# A key that was found good is taken as good for so long: a revocation reaches every API process within FRESH_SECONDS.
# Half of that time on, it is looked up again beside the request, so that a key in steady use never waits for the store.
FRESH_SECONDS = 5.0
RENEW_SECONDS = 2.5
# While the store does not answer nobody can revoke a key either: those in use stay good, and predictions go on.
OUTAGE_SECONDS = 600.0
REMEMBERED = 10_000
USED_SECONDS = 60.0  # how exact a key's "last used" is
LAUNCHER = Principal(None, "modelyard up", Role.VIEWER, via="launcher")


@dataclass(slots=True)
class _Known:
    principal: Principal
    looked_up: float
    ends: float  # of the key or the session, whichever is first; both by the monotonic clock


class Callers:
    """Belongs to one event loop."""

    def __init__(self, store: Store, launcher_key: SecretStr | None = None) -> None:
        self._store = store
        self._launcher = digest(launcher_key.get_secret_value()) if launcher_key else None
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._renewing: set[asyncio.Task[None]] = set()
        self._under_way: set[str] = set()
        self._used: dict[str, float] = {}

    def remembered(self, secret: str) -> Principal | None:
        """The caller with this key or session token, if it was found good a moment ago. Asks nobody."""
        mark = digest(secret)
        known = self._known.get(mark)
        now = time.monotonic()
        if known is None or now >= known.ends or now - known.looked_up > FRESH_SECONDS:
            return None
        if now - known.looked_up > RENEW_SECONDS and mark not in self._under_way:
            self._under_way.add(mark)
            task = asyncio.get_running_loop().create_task(self._renew(secret, mark))
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)
        return known.principal

    def seen(self, secret: str) -> bool:
        """Whether this key or token was good the last time, some minutes ago at most. It opens nothing."""
        known = self._known.get(digest(secret))
        now = time.monotonic()
        return known is not None and now < known.ends and now - known.looked_up < OUTAGE_SECONDS

    async def find(self, secret: str, *, session: bool = False) -> Principal | None:
        """The caller with this key, or with this session's token; None if it is not good.

        Raises:
            Unavailable: the store does not answer, and the key was not in use a short while ago.
        """
        if not session and self._launcher is not None and hmac.compare_digest(digest(secret), self._launcher):
            return LAUNCHER
        found = self.remembered(secret)
        return found if found is not None else await self._look_up(secret, session)

    def forget(self) -> None:
        """Ask the store about every key again: one was revoked here."""
        self._known.clear()

    async def aclose(self) -> None:
        """End what is under way."""
        for task in list(self._renewing):
            task.cancel()
        await asyncio.gather(*self._renewing, return_exceptions=True)

    async def _renew(self, secret: str, mark: str) -> None:
        known = self._known.get(mark)
        try:
            await self._look_up(secret, known is not None and known.principal.via == "session")
        except Unavailable:
            log.warning("a key could not be looked up again: the store does not answer")
        finally:
            self._under_way.discard(mark)

    async def _look_up(self, secret: str, session: bool) -> Principal | None:
        mark = digest(secret)
        began = time.monotonic()
        try:
            found = await to_thread.run_sync(self._of_session if session else self._of_key, secret)
        except Unavailable:
            known = self._known.get(mark)
            if known is not None and began - known.looked_up < OUTAGE_SECONDS and began < known.ends:
                return known.principal
            raise
        if found is None:
            self._known.pop(mark, None)
            return None
        principal, left = found
        ends = float("inf") if left is None else began + left
        self._known[mark] = _Known(principal, began, ends)
        self._known.move_to_end(mark)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return principal

    def _of_key(self, secret: str) -> tuple[Principal, float | None] | None:
        prefix = prefix_of(secret)
        key = self._store.keys.by_prefix(prefix) if prefix else None
        if key is None or not matches(secret, key.sha256) or not key.live:
            return None
        self._note_use(key)
        return principal_for(key), key.expires_in

    def _of_session(self, token: str) -> tuple[Principal, float | None] | None:
        found = self._store.keys.by_session(digest(token))
        if found is None or not found[0].live or found[1] <= 0:
            return None
        key, left = found
        self._note_use(key)
        return principal_for(key, session=True), min(left, key.expires_in or left)

    def _note_use(self, key: Key) -> None:
        now = time.monotonic()
        if now - self._used.get(key.id, -USED_SECONDS) < USED_SECONDS:
            return
        self._used[key.id] = now
        try:
            self._store.keys.used([key.id])
        except Unavailable:
            log.debug("when %s was last used could not be noted", key.id)


def principal_for(key: Key, *, session: bool = False) -> Principal:
    """The caller that holds ``key``."""
    known = Limits.__dataclass_fields__
    limits = Limits(**{name: value for name, value in key.limits.items() if name in known})
    return Principal(key.id, key.name, key.role, key.project, limits, "session" if session else "key")


class Lock:
    """Whether keys are asked for: since the first one was made. A process that found a key stays locked.

    As long as the store has not said that there is no key, it is locked.
    """

    def __init__(self, store: Store, *, every_seconds: float = 2.0) -> None:
        self._store = store
        self._every = every_seconds
        self._known = False
        self.locked = True

    def look(self) -> None:
        """Ask the store.

        Raises:
            Unavailable: it does not answer.
        """
        self.locked = self._store.keys.any()
        self._known = True

    def check_known(self) -> None:
        """Is it known whether a key is needed?

        Raises:
            Unavailable: not yet.
        """
        if not self._known:
            raise Unavailable(
                "The store has not answered yet, so who may come in is not known.",
                code="store_unavailable",
                hint="Send an API key, or check MODELYARD_DATABASE_URL and the database.",
            )

    async def watch(self) -> None:
        """Look until a key was found."""
        while not (self.locked and self._known):
            await asyncio.sleep(self._every)
            try:
                await to_thread.run_sync(self.look)
            except Unavailable:
                log.debug("whether there are keys could not be asked")
