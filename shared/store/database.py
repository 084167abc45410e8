"""Connections to SQLite or PostgreSQL: the differences between the two end in this module."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Engine,
    create_engine,
    event,
    insert,
    literal_column,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.schema import Table

from shared.errors import Misconfigured, Unavailable

_BUSY_SECONDS = 15
_FROZEN_SECONDS = 8
_STATEMENT_SECONDS = 15
_LOCK_SECONDS = 10
_ROWS_PER_STATEMENT = 500  # SQLite takes 32,766 values in one


class Database:
    """An engine with short transactions. Thread-safe; make one per process, and only after any fork.

    Args:
        url: SQLAlchemy's; ``postgres://`` is understood too.
        patient: statements may take as long as they like, as those that change tables may.
    """

    def __init__(self, url: str, *, patient: bool = False) -> None:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise Misconfigured(
                f"The store can't live in {parsed.get_backend_name()!r}.",
                hint="Set MODELYARD_DATABASE_URL to a postgresql:// or sqlite:/// URL.",
            )
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_size": 10, "max_overflow": 40}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": _BUSY_SECONDS, "check_same_thread": False}
        else:
            options["pool_pre_ping"] = True
            # a client that froze inside a transaction must not hold its locks for ever
            limits = (
                f"-c idle_in_transaction_session_timeout={_FROZEN_SECONDS}s -c lock_timeout={_BUSY_SECONDS}s"
            )
            options["connect_args"] = {"connect_timeout": 5, "options": limits}
        self.engine: Engine = create_engine(parsed, **options)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
        elif not patient:
            _bound_silence(self.engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot for reading.

        Raises:
            Unavailable: the database does not answer.
        """
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One moment's state for reading at length, statement after statement: for a backup.

        Raises:
            Unavailable: the database does not answer.
        """
        # SQLite's transactions are that already
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with _translated(), self.engine.connect() as connection:
            reader = connection.execution_options(**options)
            with reader.begin():
                if not self.is_sqlite:
                    reader.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                yield reader

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end of the block and rolled back on any exception.

        On SQLite it takes the write lock at once: a read that turns into a write later could fail with
        SQLITE_BUSY without waiting.

        Raises:
            Unavailable: the database does not answer.
        """
        with _translated(), self.engine.connect() as connection:
            writer = connection.execution_options(modelyard_write=True)
            with writer.begin():
                yield writer

    def now(self) -> ColumnElement[float]:
        """SQL for the present, in seconds since the epoch: one clock for all hosts that share the database."""
        if self.is_sqlite:
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double)
        return literal_column("extract(epoch from clock_timestamp())::double precision", Double)

    def insert(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert ``rows``, which all have the same columns.

        One statement a chunk rather than the driver's ``executemany``: psycopg sends that as a pipeline, and of a
        client that froze within one, PostgreSQL's limit for idle transactions knows nothing.
        """
        for chunk in _chunks(rows):
            connection.execute(insert(table).values(chunk))

    def upsert(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Like ``insert``, replacing the other columns where the primary key is there already."""
        keys = {column.name for column in table.primary_key}
        for chunk in _chunks(rows):
            statement = (sqlite if self.is_sqlite else postgresql).insert(table).values(chunk)
            changed = {name: statement.excluded[name] for name in chunk[0] if name not in keys}
            connection.execute(statement.on_conflict_do_update(index_elements=sorted(keys), set_=changed))

    def insert_new(
        self, connection: Connection, table: Table, row: Mapping[str, Any], *, unique: str
    ) -> None:
        """Insert ``row`` unless there is one with the same value of the column ``unique``."""
        statement = (sqlite if self.is_sqlite else postgresql).insert(table).values(dict(row))
        connection.execute(statement.on_conflict_do_nothing(index_elements=[unique]))

    def dispose(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def _bound_silence(engine: Engine) -> None:
    from shared.store.impatient import KEEP_ALIVE, ImpatientConnection

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        return ImpatientConnection.connect(*arguments, **{**KEEP_ALIVE, **options})


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # the driver's own transaction handling begins late and only before writes; ours is explicit
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",  # readers never wait for the writer
            "synchronous=FULL",  # an accepted job survives a power cut
            "foreign_keys=ON",
            f"busy_timeout={_BUSY_SECONDS * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("modelyard_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _chunks(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        yield [dict(row) for row in rows[start : start + _ROWS_PER_STATEMENT]]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable(
            "The database does not answer.",
            code="store_unavailable",
            hint=f"Check MODELYARD_DATABASE_URL and the database itself: {str(error.orig).strip()[:300]}",
        ) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("The connection to the database was lost.", code="store_unavailable") from error
        raise


def json_safe(value: Any) -> Any:
    """``value`` with numbers that are not finite replaced by None: JSON, and PostgreSQL's JSON type, have none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value
