"""What the door asks, built once by the application's lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from anyio import to_thread

from services.api.access.audit import AuditTrail
from services.api.access.callers import Callers, Lock
from services.api.access.origins import Origins, is_loopback
from services.api.access.throttle import Throttle
from shared.errors import Misconfigured, Unavailable
from shared.keys import Role, given_key
from shared.settings import Settings
from shared.store import Store

log = logging.getLogger(__name__)

SETTINGS_KEY = "settings"  # name of the key that MODELYARD_ADMIN_KEY gives


@dataclass(frozen=True, slots=True)
class Access:
    """Belongs to one event loop."""

    lock: Lock
    callers: Callers
    origins: Origins
    throttle: Throttle
    audit: AuditTrail
    role_max_body_mb: dict[Role, int]
    session_seconds: float
    project_of: Callable[[str], str]  # of a job; asks the store
    watching: asyncio.Task[None]

    async def aclose(self) -> None:
        """Close all of it."""
        self.watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.watching
        await self.callers.aclose()
        await self.throttle.aclose()
        await to_thread.run_sync(self.audit.close)


async def open_access(settings: Settings, store: Store) -> Access:
    """Build all of it, and look whether there are keys; a store that does not answer is asked again later."""
    lock = Lock(store)
    try:
        await to_thread.run_sync(_begin, settings, store, lock)
    except Unavailable as error:
        log.warning("whether there are API keys is not known yet, so all is locked: %s", error.message)
    return Access(
        lock=lock,
        callers=Callers(store, settings.launcher_key),
        origins=Origins(settings.allowed_hosts),
        throttle=Throttle(settings),
        audit=AuditTrail(store.audit, settings.paths.logs / "audit.jsonl"),
        role_max_body_mb=dict(settings.role_max_body_mb),
        session_seconds=settings.session_hours * 3600,
        project_of=lambda job_id: store.jobs.get(job_id).project,
        watching=asyncio.get_running_loop().create_task(lock.watch()),
    )


def _begin(settings: Settings, store: Store, lock: Lock) -> None:
    if settings.admin_key is not None:
        key = given_key(settings.admin_key.get_secret_value(), field="admin_key")
        store.keys.keep_only(key, name=SETTINGS_KEY)
    lock.look()


def check_address(settings: Settings) -> None:
    """An address that others can reach needs a key: whoever reaches an open API runs code as its user.

    Raises:
        Misconfigured: there is none.
        Unavailable: the store does not answer.
    """
    if is_loopback(settings.host) or settings.admin_key is not None:
        return
    store = Store(settings.store_url)
    try:
        if store.keys.any():
            return
    finally:
        store.close()
    raise Misconfigured(
        f"The API would be open to everybody who can reach {settings.host}, since there is no API key.",
        code="no_keys",
        hint="Make the first one: modelyard keys create --local --role admin (or set MODELYARD_ADMIN_KEY); "
        "or listen on 127.0.0.1.",
    )
