"""Bring a backup back, into an empty folder and an empty database."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import select, update

from shared.backup import rows
from shared.backup.snapshot import (
    ROWS,
    TREES,
    Manifest,
    check_sums,
    copy,
    damaged,
    read_entries,
    read_manifest,
)
from shared.errors import Conflict, InvalidInput, StaleClaim
from shared.jobs import AttemptOutcome, Claim, JobState
from shared.settings import Settings
from shared.store import Database, Store, current_revision, head_revision, migrate
from shared.store.migrate import known_revision
from shared.store.schema import jobs

_STAGING = ".restoring"


def restore(snapshot: Path, settings: Settings) -> Manifest:
    """Restore a snapshot; returns its manifest.

    Every file is compared with its checksum as it is copied. The files come first and the rows last, all of them in one
    transaction: a restore that fails leaves nothing behind, one that was killed files without a store. Jobs that were
    running go back to their queue, to go on from their checkpoints; rows of an older schema are brought up to date.

    Raises:
        InvalidInput: the snapshot is damaged or of a newer Modelyard; nothing is left of it.
        Conflict: there is something already where it would go.
        Unavailable: the database does not answer.
    """
    snapshot = snapshot.expanduser().resolve()
    manifest = read_manifest(snapshot)
    if not known_revision(manifest.revision):
        raise InvalidInput(
            f"The backup's store is at revision {manifest.revision}, which this version does not know.",
            hint=f"Restore it with Modelyard {manifest.version} or a newer one; this code is at {head_revision()}.",
        )
    home = settings.paths
    _refuse_what_is_there(settings, manifest)
    check_sums(snapshot, manifest)
    home.root.mkdir(parents=True, exist_ok=True)
    staging = home.root / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    placed: list[Path] = []
    try:
        _copy_files(snapshot, staging)
        for tree in TREES:
            (staging / tree).mkdir(parents=True, exist_ok=True)
            _place(staging / tree, home.root / tree, placed)
        _load_rows(snapshot, manifest, settings)
        placed.clear()
        migrate(settings.store_url)
        _put_back_on_the_queue(settings.store_url)
    except OSError as error:
        raise InvalidInput(f"The files could not be written: {error}.", code="restore_failed") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for item in placed:  # all of it was empty before
            shutil.rmtree(item) if item.is_dir() else item.unlink(missing_ok=True)
    return manifest


def _refuse_what_is_there(settings: Settings, manifest: Manifest) -> None:
    home = settings.paths
    held = [tree for tree in TREES if any(home.root.glob(f"{tree}/[!.]*/**/*"))]
    if held:
        raise Conflict(
            f"{home.root} holds {', '.join(held)} already.", hint="Restore into an empty folder: --home NEW."
        )
    if (settings.database_url or home.database.exists()) and _has_jobs(settings.store_url):
        raise Conflict(
            "The database holds a store already.",
            hint="Restore into an empty database; to replace this one, drop and create it first.",
        )
    if settings.database_url or home.database.exists():
        revision = current_revision(settings.store_url)
        if revision not in (None, manifest.revision):
            raise Conflict(
                f"The database's tables are of revision {revision}, the backup's of {manifest.revision}.",
                hint="Restore into an empty database: drop this one, which has no job yet, and create it again. "
                "The rows are brought up to date.",
            )


def _has_jobs(url: str) -> bool:
    """An empty store that a first start has just made is no hindrance."""
    if current_revision(url) is None:
        return False
    db = Database(url, patient=True)
    try:
        with db.read() as tx:
            return tx.execute(select(jobs.c.id).limit(1)).first() is not None
    finally:
        db.dispose()


def _copy_files(snapshot: Path, staging: Path) -> None:
    for entry in read_entries(snapshot):
        copied = copy(snapshot / entry.path, staging / entry.path)
        if copied is None or copied.sha256 != entry.sha256:
            raise damaged(snapshot, entry.path, copied.sha256 if copied else None)


def _place(staged: Path, target: Path, placed: list[Path]) -> None:
    """Move a tree's content into its place, which may be a volume's own folder; ``placed`` gets what was moved."""
    target.mkdir(parents=True, exist_ok=True)
    for item in staged.iterdir():
        there = target / item.name
        if there.is_dir():
            shutil.rmtree(there)  # empty folders: anything else was refused
        placed.append(there)
        shutil.move(item, there)


def _load_rows(snapshot: Path, manifest: Manifest, settings: Settings) -> None:
    url = settings.store_url
    if current_revision(url) is None:
        migrate(url, manifest.revision)
    db = Database(url, patient=True)
    try:
        rows.load(db, snapshot / ROWS, manifest.rows)
    finally:
        db.dispose()


def _put_back_on_the_queue(url: str) -> None:
    """Nobody runs what the backup says is running, and the new broker knows of no job."""
    db, store = Database(url, patient=True), Store(url)
    try:
        with db.read() as tx:
            held = tx.execute(
                select(jobs.c.id, jobs.c.claim_token, jobs.c.attempt, jobs.c.worker_id).where(
                    jobs.c.state == JobState.RUNNING, jobs.c.claim_token.is_not(None)
                )
            ).all()
        for row in held:
            claim = Claim(row.id, row.claim_token, row.attempt, row.worker_id)
            try:
                store.claims.release(claim, AttemptOutcome.RELEASED, counts=False)
            except StaleClaim:
                continue  # a worker's sweeper was quicker
        with db.write() as tx:
            tx.execute(update(jobs).where(jobs.c.state == JobState.QUEUED).values(sent_at=None))
    finally:
        store.close()
        db.dispose()
