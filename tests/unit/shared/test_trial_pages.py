"""Pages of trials are walks along an index: none sorts, and none begins at the first trial to reach a later one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import sqlite

from shared.store import migrate
from shared.store.schema import trials
from shared.store.studies import with_jobs
from shared.store.trial_pages import Order, _parts

LAST = {"number": 50, "value": 0.5, "seconds": 1.0, "status": "complete"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"
    migrate(url)
    made = create_engine(url)
    yield made
    made.dispose()


@pytest.mark.parametrize("order", ["number", "value", "duration", "status"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("known", [True, False])
def test_no_page_sorts_or_scans(engine: Any, order: Order, descending: bool, known: bool) -> None:
    values = LAST if known else {**dict.fromkeys(LAST), "number": 50}
    last = SimpleNamespace(**values, _mapping=values)
    base = with_jobs().where(trials.c.study_id == "job_s")
    for after in (None, last):
        for query in _parts(base, order, descending, after):
            options = {"literal_binds": True}
            sql = str(query.limit(51).compile(dialect=sqlite.dialect(), compile_kwargs=options))
            with engine.connect() as connection:
                plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
            assert any(step.startswith("SEARCH trials USING") for step in plan), plan
            assert not [step for step in plan if "SCAN" in step], plan
            # of trials with one value, these alone are put in order
            ties = {f"USE TEMP B-TREE FOR {part} OF ORDER BY" for part in ("RIGHT PART", "LAST TERM")}
            allowed = ties if descending and order == "value" else set()
            assert {step for step in plan if "TEMP B-TREE" in step} <= allowed, plan
            if after is not None and known:
                column = {"duration": "seconds"}.get(order, order)
                begins = [step for step in plan if f"{column}>" in step or f"{column}<" in step]
                assert begins or f"trials.{column} IS NULL" in sql, plan
