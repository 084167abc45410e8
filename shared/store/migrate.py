"""Bring the tables up to date with Alembic; safe to call by several processes at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url, text

from shared.store.database import Database

_LOCK = 7_266_031  # any number of our own


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def head_revision() -> str:
    """The revision this code expects."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def known_revision(revision: str) -> bool:
    """Whether this code can bring a store of that revision up to date."""
    return any(
        script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions()
    )


def current_revision(url: str) -> str | None:
    """The revision the database is at; None for an empty one."""
    db = Database(url, patient=True)
    try:
        with db.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        db.dispose()


def migrate(url: str, revision: str = "head") -> None:
    """Make or change the tables up to ``revision``, in one transaction.

    Raises:
        Unavailable: the database does not answer.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    db = Database(url, patient=True)
    try:
        with db.write() as connection:  # SQLite: the write lock lets one migrator in at a time
            if not db.is_sqlite:
                # a change of a large table may take its time, and another migrator waits for it
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        db.dispose()
