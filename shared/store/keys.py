"""API keys and the browser sessions opened with them. Of both only hashes are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, delete, insert, or_, select, update

from shared.errors import Conflict, NotFound
from shared.jobs import Page
from shared.keys import NewKey, Role
from shared.names import new_id
from shared.store.database import Database, json_safe
from shared.store.schema import api_keys, sessions

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. ``expires_in`` and ``live`` are as of the reading, by the database's clock."""

    id: str
    name: str
    prefix: str
    sha256: str = field(repr=False)
    role: Role
    project: str | None
    limits: dict[str, Any]
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    expires_in: float | None

    @property
    def live(self) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_in is None or self.expires_in > 0)


class KeyStore:
    """Keys and sessions. All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def any(self) -> bool:
        """Whether a key was ever made: from then on the API is locked, also when all are revoked."""
        with self._db.read() as tx:
            return tx.execute(select(api_keys.c.id).limit(1)).first() is not None

    def add(
        self,
        key: NewKey,
        *,
        name: str,
        role: Role,
        created_by: str,
        project: str | None = None,
        limits: Mapping[str, Any] | None = None,
        expires_in: float | None = None,
    ) -> Key:
        """Record a new key; ``expires_in``: seconds.

        Raises:
            Conflict: it would be the first, and is no admin's: nobody could make another.
        """
        key_id = new_id("key")
        with self._db.write() as tx:
            if role is not Role.ADMIN and tx.execute(select(api_keys.c.id).limit(1)).first() is None:
                raise Conflict(
                    f"The first key must be an admin's, not a {role}'s: it locks the API, and makes the others.",
                    code="first_key_not_admin",
                    hint="Make it with role admin, then this one.",
                )
            now = self._db.now()
            tx.execute(
                insert(api_keys).values(
                    id=key_id,
                    name=name,
                    prefix=key.prefix,
                    sha256=key.sha256,
                    role=role.value,
                    project=project,
                    limits=json_safe(limits or {}),
                    created_at=now,
                    created_by=created_by,
                    expires_at=None if expires_in is None else now + expires_in,
                )
            )
            return _key(tx.execute(self._select().where(api_keys.c.id == key_id)).one())

    def get(self, key_id: str) -> Key:
        """One key, by its id or its prefix.

        Raises:
            NotFound: no such key.
        """
        with self._db.read() as tx:
            row = tx.execute(self._select().where(_named(key_id))).one_or_none()
        if row is None:
            raise NotFound(
                f"There is no key {key_id[:80]!r}.", code="key_not_found", hint="See them with GET /keys."
            )
        return _key(row)

    def by_prefix(self, prefix: str) -> Key | None:
        """The key that begins so, live or not."""
        with self._db.read() as tx:
            row = tx.execute(self._select().where(api_keys.c.prefix == prefix)).one_or_none()
        return _key(row) if row is not None else None

    def find(self, *, after: str | None = None, limit: int = 50) -> Page[Key]:
        """Newest first, with those that are revoked or expired."""
        query = self._select().order_by(api_keys.c.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(api_keys.c.id < after)
        with self._db.read() as tx:
            rows = tx.execute(query).all()
        return Page([_key(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def revoke(self, key_id: str) -> Key:
        """Make a key worthless, and end its sessions; twice is fine.

        Raises:
            NotFound: no such key.
        """
        key = self.get(key_id)
        with self._db.write() as tx:
            tx.execute(
                update(api_keys)
                .where(api_keys.c.id == key.id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=self._db.now())
            )
            tx.execute(delete(sessions).where(sessions.c.key_id == key.id))
        return self.get(key.id)

    def keep_only(self, key: NewKey, *, name: str) -> None:
        """The one live admin key called ``name`` is ``key`` from now on: an operator has put it into the settings."""
        with self._db.write() as tx:
            now = self._db.now()
            tx.execute(
                update(api_keys)
                .where(
                    api_keys.c.name == name,
                    api_keys.c.created_by == LOCAL,
                    api_keys.c.sha256 != key.sha256,
                    api_keys.c.revoked_at.is_(None),
                )
                .values(revoked_at=now)
            )
            row = {
                "id": new_id("key"),
                "name": name,
                "prefix": key.prefix,
                "sha256": key.sha256,
                "role": Role.ADMIN.value,
                "limits": {},
                "created_at": tx.execute(select(now)).scalar_one(),
                "created_by": LOCAL,
            }
            self._db.insert_new(tx, api_keys, row, unique="prefix")  # each API process does this as it starts

    def used(self, key_ids: list[str]) -> None:
        """Note that these keys were used just now."""
        with self._db.write() as tx:
            tx.execute(update(api_keys).where(api_keys.c.id.in_(key_ids)).values(last_used_at=self._db.now()))

    def open_session(self, token_sha256: str, key_id: str, *, seconds: float) -> None:
        """Record a browser's session; forgets those that are over."""
        with self._db.write() as tx:
            now = self._db.now()
            tx.execute(delete(sessions).where(sessions.c.expires_at < now))
            tx.execute(
                insert(sessions).values(
                    sha256=token_sha256, key_id=key_id, created_at=now, expires_at=now + seconds
                )
            )

    def by_session(self, token_sha256: str) -> tuple[Key, float] | None:
        """The key that a session was opened with, and the seconds left of the session."""
        query = (
            self._select()
            .add_columns((sessions.c.expires_at - self._db.now()).label("session_left"))
            .join(sessions, sessions.c.key_id == api_keys.c.id)
            .where(sessions.c.sha256 == token_sha256)
        )
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        return None if row is None else (_key(row), float(row.session_left))

    def close_session(self, token_sha256: str) -> None:
        """End a session."""
        with self._db.write() as tx:
            tx.execute(delete(sessions).where(sessions.c.sha256 == token_sha256))

    def _select(self) -> Any:
        return select(api_keys, (api_keys.c.expires_at - self._db.now()).label("expires_in"))


def _named(key_id: str) -> Any:
    return or_(api_keys.c.id == key_id, api_keys.c.prefix == key_id.removeprefix("mdy_"))


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        sha256=row.sha256,
        role=Role(row.role),
        project=row.project,
        limits=row.limits,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        expires_in=row.expires_in,
    )
