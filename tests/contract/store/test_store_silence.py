"""A PostgreSQL that no longer answers costs seconds, not a thread for ever."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from shared.errors import Unavailable
from shared.store import impatient
from shared.store.database import Database


def test_a_silent_server_is_given_up_and_the_next_question_gets_a_new_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impatient, "SILENCE_SECONDS", 0.5)
    db = Database(postgres_url)
    began = time.monotonic()
    with pytest.raises(Unavailable), db.read() as connection:
        connection.execute(text("SELECT pg_sleep(30)"))
    assert time.monotonic() - began < 15
    with db.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    db.dispose()


def test_a_slow_answer_that_keeps_coming_is_waited_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impatient, "SILENCE_SECONDS", 1.5)
    db = Database(postgres_url)
    with db.read() as connection:
        slow = "SELECT repeat('x', 100000), pg_sleep(0.2) FROM generate_series(1, 12)"
        assert len(connection.execute(text(slow)).all()) == 12
    db.dispose()


def test_migrations_are_patient(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impatient, "SILENCE_SECONDS", 0.2)
    db = Database(postgres_url, patient=True)
    with db.read() as connection:
        connection.execute(text("SELECT pg_sleep(1)"))
    db.dispose()
