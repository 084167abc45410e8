"""A backup is whole, or says what is wrong with it; it can be restored from either database into either."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.backup import check, create, newest, restore
from shared.backup.snapshot import Manifest
from shared.errors import Conflict, InvalidInput, Misconfigured
from shared.jobs import JobState
from shared.keys import Role, digest, new_key
from shared.settings import Settings
from shared.specs import parse_job
from shared.store import Database, Report, Store, migrate
from shared.store.schema import metadata
from tests.builders import migrated

SPEC = {"model": {"builder": "lenet5"}, "dataset": {"tfds": "mnist"}, "publish": {"model": "digits"}}
ROWS_OF_A_BATCH = 500


def settings_at(home: Path, url: str | None = None) -> Settings:
    return Settings(home=home, database_url=url)


@pytest.fixture(params=["sqlite", "postgresql"])
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A queued and a running job, more events than go into one statement, a version with files, a run, a dataset."""
    url = None if request.param == "sqlite" else request.getfixturevalue("migrated_postgres_url")
    settings = settings_at(tmp_path / "home", url)
    settings.paths.create()
    if url is None:
        migrated(settings.store_url)
    store = Store(settings.store_url)
    spec = parse_job(SPEC)
    running = store.jobs.create(spec)[0].id
    taken = store.claims.claim(running, "worker-1", 30)
    assert taken is not None
    queued = store.jobs.create(spec)[0].id
    store.jobs.mark_sent(queued)

    for number in range(3):
        events = [("info", {"n": n, "text": 'a "quoted" ü\n'}) for n in range(ROWS_OF_A_BATCH)]
        store.claims.report(taken[0], Report(events=events, stage=f"s{number}"))
    store.close()
    for name, content in {
        "models/digits/1/saved_model.pb": b"graph",
        "models/digits/1/variables/variables.index": b"",
        "models/digits/.staging-job_1-1/saved_model.pb": b"half",
        "models/models.config": b"# written anew",
        "runs/digits/run-1/checkpoints/000001-00000000.npz": os.urandom(70_000),
        "runs/digits/run-1/job.log": b"line\n",
        "datasets/ds_1/data.npz": b"rows",
        "tfds/mnist/big.tfrecord": b"can be downloaded again",
    }.items():
        path = settings.paths.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return settings


@pytest.fixture
def snapshot(platform: Settings, tmp_path: Path) -> tuple[Path, Manifest]:
    return create(platform, tmp_path / "backups")


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """An empty home and an empty database."""
    url = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        from sqlalchemy import create_engine, make_url, text

        admin = make_url(server).set(drivername="postgresql+psycopg")
        engine = create_engine(admin, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE restored"))
        url = admin.set(database="restored").render_as_string(hide_password=False)
    yield settings_at(tmp_path / "restored", url)
    if url is not None:
        with engine.connect() as connection:
            connection.execute(text("DROP DATABASE restored WITH (FORCE)"))
        engine.dispose()


def rows_of(settings: Settings) -> dict[str, list[dict[str, object]]]:
    db = Database(settings.store_url)
    with db.read() as tx:
        tables = {
            t.name: [dict(r) for r in tx.execute(t.select()).mappings()] for t in metadata.sorted_tables
        }
    db.dispose()
    return tables


def test_what_comes_back_is_what_was_there(
    platform: Settings, snapshot: tuple[Path, Manifest], target: Settings
) -> None:
    path, manifest = snapshot
    restore(path, target)
    before, after = rows_of(platform), rows_of(target)
    job_of = {row["id"]: row for row in after["jobs"]}
    for job in before["jobs"]:
        restored = job_of[job["id"]]
        assert restored["spec"] == job["spec"]
        assert restored["created_at"] == job["created_at"]
        # nobody runs it, no broker knows it, and it lost nothing by that
        assert restored["state"] == JobState.QUEUED
        assert restored["sent_at"] is None
        assert restored["losses"] == 0
    events = {(row["job_id"], row["seq"]): row for row in after["job_events"]}
    assert all(events[row["job_id"], row["seq"]] == row for row in before["job_events"])
    assert manifest.rows["job_events"] == len(before["job_events"]) > 3 * ROWS_OF_A_BATCH
    for name in ("models/digits/1/saved_model.pb", "runs/digits/run-1/checkpoints/000001-00000000.npz"):
        assert (target.paths.root / name).read_bytes() == (platform.paths.root / name).read_bytes()
    assert not (target.paths.root / "models/models.config").exists()
    assert not list((target.paths.root / "models/digits").glob(".*"))
    assert not (target.paths.root / "tfds").exists()


def test_the_restored_store_goes_on(snapshot: tuple[Path, Manifest], target: Settings) -> None:
    restore(snapshot[0], target)
    store = Store(target.store_url)
    new = store.jobs.create(parse_job(SPEC))[0].id
    taken = store.claims.claim(new, "worker-2", 30)
    assert taken is not None
    store.claims.finish(taken[0], JobState.SUCCEEDED)
    assert store.jobs.get(new).state is JobState.SUCCEEDED
    store.close()


RECORD = {
    "at": 1.0, "key_id": None, "who": "me", "role": None, "method": "POST", "route": "/keys", "target": "/keys",
    "status": 201, "request_id": "r", "address": None,
}  # fmt: skip


def test_a_first_start_is_no_hindrance_and_its_audit_log_stays(
    platform: Settings, tmp_path: Path, target: Settings
) -> None:
    for settings, who in ((platform, "before"), (target, "since")):
        settings.paths.create()
        migrate(settings.store_url)
        store = Store(settings.store_url)
        key = store.keys.add(new_key(), name=who, role=Role.ADMIN, created_by="local")
        store.keys.open_session(digest(who), key.id, seconds=60)
        store.audit.add([{**RECORD, "who": who}] * 2)
        store.close()
    restore(create(platform, tmp_path / "backups")[0], target)
    store = Store(target.store_url)
    assert [key.name for key in store.keys.find().items] == ["before"]
    store.audit.add([{**RECORD, "who": "new"}])
    log = store.audit.find().items
    assert [item.who for item in log] == ["new", "before", "before", "since", "since"]
    assert [item.seq for item in log] == [5, 4, 3, 2, 1]
    store.close()


def test_a_restore_that_fails_can_be_done_again(
    snapshot: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = settings_at(tmp_path / "new")
    with monkeypatch.context() as patched:
        patched.setattr("shared.backup.rows._typed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            restore(snapshot[0], new)
    assert not [
        path for path in new.paths.root.rglob("*") if path.is_file() and "modelyard.db" not in path.name
    ]
    restore(snapshot[0], new)
    assert (new.paths.models / "digits/1/saved_model.pb").read_bytes() == b"graph"


def test_tables_of_another_version_are_refused(snapshot: tuple[Path, Manifest], tmp_path: Path) -> None:
    new = settings_at(tmp_path / "new")
    new.paths.create()
    migrate(new.store_url, "0006")
    with pytest.raises(Conflict, match="revision 0006"):
        restore(snapshot[0], new)


def test_unchanged_files_take_no_room_the_second_time(platform: Settings, tmp_path: Path) -> None:
    first, whole = create(platform, tmp_path / "backups")
    log = platform.paths.runs / "digits/run-1/job.log"
    log.write_bytes(b"line\nanother\n")
    second, manifest = create(platform, tmp_path / "backups")
    assert newest(tmp_path / "backups") == second != first
    assert (manifest.files, manifest.linked) == (whole.files, whole.files - 1)
    assert (first / "runs/digits/run-1/job.log").read_bytes() == b"line\n"
    shutil.rmtree(first)
    assert check(second) == manifest


def test_a_flipped_byte_is_found_and_nothing_is_restored(
    snapshot: tuple[Path, Manifest], tmp_path: Path
) -> None:
    path, _ = snapshot
    victim = path / "runs/digits/run-1/checkpoints/000001-00000000.npz"
    content = bytearray(victim.read_bytes())
    content[1234] ^= 1
    victim.write_bytes(content)
    for use in (check, lambda found: restore(found, settings_at(tmp_path / "new"))):
        with pytest.raises(InvalidInput, match=r"000001-00000000\.npz is not what was written") as caught:
            use(path)
        assert caught.value.code == "backup_damaged"
    assert [item.name for item in (tmp_path / "new").iterdir()] == []


@pytest.mark.parametrize("name", ["rows/jobs.jsonl.gz", "files.jsonl.gz"])
def test_a_missing_part_is_named(snapshot: tuple[Path, Manifest], tmp_path: Path, name: str) -> None:
    (snapshot[0] / name).unlink()
    with pytest.raises(InvalidInput, match=f"{name} is missing"):
        restore(snapshot[0], settings_at(tmp_path / "new"))


def test_a_backup_that_was_interrupted_is_no_backup(snapshot: tuple[Path, Manifest], tmp_path: Path) -> None:
    (snapshot[0] / "manifest.json").unlink()
    with pytest.raises(InvalidInput, match="not a whole backup"):
        restore(snapshot[0], settings_at(tmp_path / "new"))
    assert newest(tmp_path / "backups") is None


def test_nothing_that_is_there_is_overwritten(platform: Settings, snapshot: tuple[Path, Manifest]) -> None:
    before = rows_of(platform)
    with pytest.raises(Conflict, match="holds models, runs, datasets already"):
        restore(snapshot[0], platform)
    for tree in ("models", "runs", "datasets"):
        shutil.rmtree(platform.paths.root / tree)
    with pytest.raises(Conflict, match="database holds a store"):
        restore(snapshot[0], platform)
    assert rows_of(platform) == before


def test_a_newer_schema_is_refused(snapshot: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = snapshot[0] / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "revision": "9999"}))
    with pytest.raises(InvalidInput, match="revision 9999, which this version does not know"):
        restore(snapshot[0], settings_at(tmp_path / "new"))


def test_a_path_that_leads_out_is_refused(snapshot: tuple[Path, Manifest], tmp_path: Path) -> None:
    import gzip
    import hashlib

    path, _ = snapshot
    line = {"path": "models/../../escaped", "size": 1, "mtime_ns": 0, "sha256": "0" * 64}
    (path / "files.jsonl.gz").write_bytes(gzip.compress(json.dumps(line).encode()))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sums"]["files.jsonl.gz"] = hashlib.sha256((path / "files.jsonl.gz").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match="outside of the backup"):
        restore(path, settings_at(tmp_path / "new"))


def test_links_are_left_out_and_said(platform: Settings, tmp_path: Path) -> None:
    (platform.paths.runs / "digits/run-1/link").symlink_to("/etc/passwd")
    _, manifest = create(platform, tmp_path / "backups")
    assert manifest.skipped == ["runs/digits/run-1/link: not a plain file"]


def test_a_folder_within_what_is_backed_up_is_refused(platform: Settings) -> None:
    with pytest.raises(InvalidInput, match="part of what is backed up"):
        create(platform, platform.paths.runs / "backups")


def test_no_store_no_backup(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no store"):
        create(settings_at(tmp_path / "nothing"), tmp_path / "backups")
    assert not (tmp_path / "nothing").exists()
