"""The migrations make the tables that the code describes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from shared.store import Database, current_revision, head_revision, migrate
from shared.store.schema import metadata


def test_migrated_tables_are_those_described(url: str) -> None:
    db = Database(url)
    with db.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    db.dispose()


def test_migrating_twice_and_at_once_is_harmless(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [url] * 4))
    assert current_revision(url) == head_revision()


def test_an_empty_database_has_no_revision(tmp_path: Path) -> None:
    assert current_revision(f"sqlite:///{tmp_path}/empty.db") is None
