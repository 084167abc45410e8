"""Keys, sessions and the audit log, on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError

from shared.errors import Conflict, NotFound
from shared.keys import Role, digest, new_key
from shared.store import Store
from shared.store.schema import audit_log


def _record(**changes: Any) -> dict[str, Any]:
    record = {
        "at": 1e9, "key_id": None, "who": "x", "role": None, "method": "POST", "route": "/jobs",
        "target": "/jobs/job_1", "status": 202, "request_id": "r", "address": "10.0.0.1",
    }  # fmt: skip
    return {**record, **changes}


def test_the_first_key_is_an_admins(store: Store) -> None:
    assert not store.keys.any()
    with pytest.raises(Conflict, match="admin"):
        store.keys.add(new_key(), name="a", role=Role.VIEWER, created_by="local")
    store.keys.add(new_key(), name="a", role=Role.ADMIN, created_by="local")
    store.keys.add(new_key(), name="a", role=Role.VIEWER, created_by="local")
    assert store.keys.any()


def test_a_key_is_found_by_its_prefix_and_its_secret_is_not_kept(store: Store) -> None:
    new = new_key()
    key = store.keys.add(new, name="ci", role=Role.ADMIN, created_by="local", expires_in=60)
    found = store.keys.by_prefix(new.prefix)
    assert found is not None
    assert found.live
    assert found.expires_in == pytest.approx(60, abs=30)
    assert (found.id, found.sha256) == (key.id, digest(new.text))
    assert new.text not in repr(found)
    assert found.sha256 not in repr(found)
    assert store.keys.by_prefix(new_key().prefix) is None


def test_a_key_expires_and_is_revoked(store: Store) -> None:
    admin = store.keys.add(new_key(), name="a", role=Role.ADMIN, created_by="local")
    late = store.keys.add(new_key(), name="b", role=Role.VIEWER, created_by="local", expires_in=-1)
    assert not store.keys.get(late.id).live
    first = store.keys.revoke(admin.id)
    assert not first.live
    assert store.keys.revoke(admin.prefix).revoked_at == first.revoked_at
    assert store.keys.any(), "a lock without a live key stays a lock"
    with pytest.raises(NotFound):
        store.keys.revoke("key_nobody")


def test_sessions_end_with_their_key(store: Store) -> None:
    key = store.keys.add(new_key(), name="a", role=Role.ADMIN, created_by="local")
    for token, seconds in (("one", 60), ("two", 60), ("late", -1)):
        store.keys.open_session(digest(token), key.id, seconds=seconds)
    found = store.keys.by_session(digest("one"))
    assert found is not None
    assert found[0].id == key.id
    assert 0 < found[1] <= 60
    late = store.keys.by_session(digest("late"))
    assert late is None or late[1] <= 0
    store.keys.close_session(digest("one"))
    assert store.keys.by_session(digest("one")) is None
    store.keys.revoke(key.id)
    assert store.keys.by_session(digest("two")) is None


def test_an_operators_own_key_replaces_the_one_before(store: Store) -> None:
    one, two = new_key(), new_key()
    for key in (one, one, two):
        store.keys.keep_only(key, name="settings")
    first, second = store.keys.by_prefix(one.prefix), store.keys.by_prefix(two.prefix)
    assert first is not None
    assert second is not None
    assert (first.live, second.live, second.role) == (False, True, Role.ADMIN)
    assert len(store.keys.find().items) == 2


def test_keys_come_in_pages(store: Store) -> None:
    made = [store.keys.add(new_key(), name="a", role=Role.ADMIN, created_by="local").id for _ in range(3)]
    page = store.keys.find(limit=2)
    assert page.has_more
    rest = store.keys.find(limit=2, after=page.items[-1].id)
    assert sorted(key.id for key in (*page.items, *rest.items)) == sorted(made)
    assert not rest.has_more
    store.keys.used([made[0]])
    assert store.keys.get(made[0]).last_used_at is not None


def test_the_audit_log_is_read_newest_first(store: Store) -> None:
    store.audit.add([_record(target=f"/jobs/{number}") for number in range(5)])
    page = store.audit.find(limit=3)
    assert [item.target for item in page.items] == ["/jobs/4", "/jobs/3", "/jobs/2"]
    assert page.has_more
    assert [item.target for item in store.audit.find(after=page.items[-1].seq).items] == [
        "/jobs/1",
        "/jobs/0",
    ]
    assert store.audit.find(key_id="key_x").items == []


def test_the_audit_log_can_not_be_rewritten(store: Store) -> None:
    with store._db.read() as tx:
        now = tx.execute(select(store._db.now())).scalar_one()
    store.audit.add([_record(at=now), _record(at=now - 91 * 86_400)])
    for statement in (update(audit_log).values(who="nobody"), delete(audit_log)):
        with pytest.raises(DBAPIError, match="append-only"), store._db.write() as tx:
            tx.execute(statement)
    with store._db.write() as tx:
        tx.execute(delete(audit_log).where(audit_log.c.at < now - 90 * 86_400 - 1))
        assert tx.execute(text("SELECT count(*) FROM audit_log")).scalar_one() == 1
