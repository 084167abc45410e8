"""The store's rows as JSON lines, the same for SQLite and PostgreSQL.

Tables are read from the database itself rather than from our own description of them, so that rows of an older schema,
and tables that a library keeps beside ours, are taken as they are.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, DateTime, Integer, LargeBinary, MetaData, Table, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from shared.errors import InvalidInput
from shared.store import Database

# Made by the migrations themselves, or true of the moment only.
LEFT_OUT = frozenset({"alembic_version", "workers"})
_BATCH = 500
# Its rows can't be deleted: what is there stays, and is counted before what comes back.
_STAYS = "audit_log"


def dump(db: Database, folder: Path) -> dict[str, int]:
    """Write every table into ``folder``, all of one moment; returns how many rows each has.

    Raises:
        Unavailable: the database does not answer.
    """
    folder.mkdir(parents=True)
    counts: dict[str, int] = {}
    with db.snapshot() as connection:
        for table in _tables(connection):
            counts[table.name] = 0
            with gzip.open(folder / f"{table.name}.jsonl.gz", "wt", compresslevel=3) as lines:
                query = select(table).order_by(*table.primary_key.columns)
                rows = connection.execute(query, execution_options={"stream_results": True})
                for batch in rows.mappings().partitions(_BATCH):
                    lines.writelines(
                        json.dumps({k: _plain(v) for k, v in row.items()}) + "\n" for row in batch
                    )
                    counts[table.name] += len(batch)
    return counts


def load(db: Database, folder: Path, counts: dict[str, int]) -> None:
    """Put the rows of ``folder`` into tables that are there, in place of what a first start has put into them, in one
    transaction: all or nothing.

    Raises:
        InvalidInput: a table is missing, or there are not as many rows as there should be.
        Unavailable: the database does not answer.
    """
    with db.write() as connection:
        tables = {table.name: table for table in _tables(connection)}
        missing = sorted(name for name, count in counts.items() if count and name not in tables)
        if missing:
            raise InvalidInput(f"The backup has rows for tables that are not there: {', '.join(missing)}.")
        for name, table in reversed(tables.items()):
            # rows that the migrations put in are in the backup too
            if name in counts and name != _STAYS:
                connection.execute(table.delete())
        for name, table in tables.items():
            if name in counts:
                _load_table(db, connection, table, folder / f"{name}.jsonl.gz", counts[name])


def _load_table(db: Database, connection: Connection, table: Table, path: Path, expected: int) -> None:
    loaded = 0
    batch: list[dict[str, Any]] = []
    numbers = {column.name for column in table.primary_key} if table.name == _STAYS else set()
    if numbers and connection.execute(select(func.count()).select_from(table)).scalar_one() == 0:
        numbers = set()
    for row in _lines(path):
        batch.append({key: _typed(table, key, value) for key, value in row.items() if key not in numbers})
        if len(batch) == _BATCH:
            loaded += _insert(db, connection, table, batch)
    loaded += _insert(db, connection, table, batch)
    if loaded != expected:
        raise InvalidInput(f"{path} holds {loaded} rows where the manifest says {expected}.")
    if not db.is_sqlite:
        _move_sequence(connection, table)


def _insert(db: Database, connection: Connection, table: Table, batch: list[dict[str, Any]]) -> int:
    count = len(batch)
    try:
        db.insert(connection, table, batch)
    except SQLAlchemyError as error:
        raise InvalidInput(f"Rows of {table.name} could not be put in: {error}") from error
    batch.clear()
    return count


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        for line in lines:
            yield json.loads(line)


def _tables(connection: Connection) -> list[Table]:
    """Those that others refer to before those that refer to them."""
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: name not in LEFT_OUT)
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True
    return list(metadata.sorted_tables)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(bytes(value)).decode()
    return value


def _typed(table: Table, key: str, value: Any) -> Any:
    if value is None or key not in table.columns:
        return value
    kind = table.columns[key].type
    if isinstance(kind, DateTime):
        return datetime.fromisoformat(value)
    if isinstance(kind, LargeBinary):
        return base64.b64decode(value)
    return value


def _move_sequence(connection: Connection, table: Table) -> None:
    """PostgreSQL counts a serial column's values beside the table: go on after the highest one put in."""
    for column in table.primary_key.columns:
        if not isinstance(column.type, Integer):
            continue
        sequence = connection.execute(
            text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": table.name, "column": column.name},
        ).scalar()
        highest = connection.execute(select(func.max(column))).scalar()
        if sequence and highest:
            connection.execute(text("SELECT setval(:name, :value)"), {"name": sequence, "value": highest})
