"""A backup: one folder that holds the store's rows and the files they speak of, and can be proven whole.

    <snapshot>/manifest.json       what it is, with the SHA-256 of each of the files below; written last
    <snapshot>/rows/<table>.jsonl.gz
    <snapshot>/files.jsonl.gz      path, size, mtime and SHA-256 of every file
    <snapshot>/{models,runs,datasets}/

The rows are plain JSON, the same for SQLite and PostgreSQL: a backup of one machine can be restored into a stack with
PostgreSQL, and the other way round.
"""

from __future__ import annotations

from shared.backup.create import create
from shared.backup.restore import restore
from shared.backup.snapshot import Manifest, check, newest

__all__ = ["Manifest", "check", "create", "newest", "restore"]
