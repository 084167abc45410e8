"""What the rules of a ``RetentionPolicy`` allow to go, and its removal, file after file.

A run folder is shared by no two jobs, but a job that goes on from another one reads the other's: what jobs need that
have come meanwhile is asked for again before each removal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shared import checkpoint_files
from shared.errors import Conflict, NotFound
from shared.home import Home
from shared.model_repo import ModelRepo, tree_size
from shared.names import new_id
from shared.serving_config import ServingConfig
from shared.specs.retention import RetentionPolicy, VersionRule
from shared.store import Store, Version
from shared.store.ended_jobs import EndedJob, InUse

DAY = 86_400.0
_PAGE = 200
_NAMED = 1000
# A job is stored a while after its id was made, and on another host's clock.
LATE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Going:
    """One thing that the rules allow to go.

    ``kind``: checkpoint, event_file, version or job. ``name``: a path below the runs folder, "model/version", or an id.
    """

    kind: str
    name: str
    size_bytes: int


@dataclass(slots=True)
class Removed:
    """What a clean-up removed, or would remove. ``things`` names the first thousand."""

    counts: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    things: list[Going] = field(default_factory=list)

    def add(self, going: Going) -> None:
        """Count one thing."""
        self.counts[going.kind] = self.counts.get(going.kind, 0) + 1
        self.size_bytes += going.size_bytes
        if len(self.things) < _NAMED:
            self.things.append(going)


class CleanUp:
    """One at a time for a home folder, whatever process runs it."""

    def __init__(self, store: Store, home: Home, config: ServingConfig) -> None:
        self._store = store
        self._home = home
        self._config = config

    def run(self, policy: RetentionPolicy, *, dry: bool) -> Removed:
        """Remove what ``policy`` allows to go; with ``dry``, only say what that is.

        Raises:
            Conflict: another clean-up is under way.
            Unavailable: the store does not answer; what was removed until then stays removed.
        """
        with self._alone():
            return _Run(self._store, self._home, self._config, policy, dry).run()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self._home.root / ".clean-up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    "Another clean-up is under way.",
                    code="clean_up_running",
                    hint="Try again when it is done.",
                ) from None
            yield
        finally:
            os.close(descriptor)


class _Needed:
    """What jobs that are not over need."""

    def __init__(self, store: Store) -> None:
        self._ended_jobs = store.ended_jobs
        self._looked = time.time()
        self._in_use = store.ended_jobs.in_use()

    def now(self) -> InUse:
        """With what has come since the last look."""
        looked = time.time()
        bound = new_id("job", now=self._looked - LATE_SECONDS)
        self._in_use |= self._ended_jobs.in_use(after=bound)
        self._looked = looked
        return self._in_use


class _Run:
    """One clean-up. ``dry``: what would go is taken to be gone, so that the same is said as would be done."""

    def __init__(
        self, store: Store, home: Home, config: ServingConfig, policy: RetentionPolicy, dry: bool
    ) -> None:
        self._store = store
        self._home = home
        self._repo = ModelRepo(home.models)
        self._config = config
        self._policy = policy
        self._dry = dry
        self._needed = _Needed(store)
        self._removed = Removed()
        self._gone_versions: set[tuple[str, int]] = set()
        self._gone_jobs: set[str] = set()

    def run(self) -> Removed:
        policy = self._policy
        if policy.versions is not None:
            self._versions(policy.versions)
        if policy.jobs is not None:
            self._jobs(policy.jobs.older_than_days * DAY)
        if policy.checkpoints is not None or policy.event_files is not None:
            self._files(policy)
        return self._removed

    def _versions(self, rule: VersionRule) -> None:
        before = time.time() - rule.older_than_days * DAY
        for model in self._model_names():
            held = self._store.models.held(model)
            gone: list[int] = []
            for place, version in enumerate(self._all_versions(model)):
                number = version.version
                if place < rule.keep or number in held or version.created_at > before:
                    continue
                if (model, number) in self._needed.now().versions or not self._forget(model, number):
                    continue
                gone.append(number)
                self._removed.add(Going("version", f"{model}/{number}", version.size_bytes))
            self._gone_versions |= {(model, number) for number in gone}
            if gone and not self._dry:
                self._config.write()  # a model server lets go of them first
                for number in gone:
                    self._repo.remove(model, number)

    def _forget(self, model: str, number: int) -> bool:
        if self._dry:
            return True
        try:
            self._store.models.delete_version(model, number)
        except (Conflict, NotFound):
            return False  # a label has come to it, or somebody else was quicker
        return True

    def _model_names(self) -> Iterator[str]:
        after: str | None = None
        while True:
            page = self._store.models.find(after=after, limit=_PAGE)
            yield from (model.name for model in page.items)
            if not page.has_more:
                return
            after = page.items[-1].name

    def _all_versions(self, model: str) -> Iterator[Version]:
        after: int | None = None
        while True:
            page = self._store.models.versions(model, after=after, limit=_PAGE)
            yield from page.items
            if not page.has_more:
                return
            after = page.items[-1].version

    def _jobs(self, seconds: float) -> None:
        ended = self._store.ended_jobs
        for job in ended.older_than(seconds, top=True):
            in_use = self._needed.now()
            if self._dry:
                going = ended.family(job.id, in_use, without=self._gone_versions)
            else:
                going = ended.forget(job.id, in_use)
            if going is None:
                continue
            self._gone_jobs |= going.keys()
            folders = [folder for folder in going.values() if folder]
            self._removed.add(Going("job", job.id, sum(self._size(folder) for folder in folders)))
            for folder in folders if not self._dry else ():
                shutil.rmtree(self._home.runs / folder, ignore_errors=True)

    def _files(self, policy: RetentionPolicy) -> None:
        ages = [rule.older_than_days for rule in (policy.checkpoints, policy.event_files) if rule is not None]
        for job in self._store.ended_jobs.older_than(min(ages) * DAY):
            if job.run_dir is None or job.id in self._gone_jobs or self._is_needed(job):
                continue
            folder = self._home.runs / job.run_dir
            age = time.time() - job.finished_at
            if policy.checkpoints is not None and age > policy.checkpoints.older_than_days * DAY:
                for arrays in _checkpoints(folder, policy.checkpoints.keep):
                    # notes first, since arrays without notes are no checkpoint
                    self._unlink("checkpoint", arrays, [arrays.with_suffix(".json"), arrays])
            if policy.event_files is not None and age > policy.event_files.older_than_days * DAY:
                for path in sorted(folder.rglob("events.out.tfevents.*")):
                    self._unlink("event_file", path, [path])

    def _unlink(self, kind: str, named: Path, paths: list[Path]) -> None:
        size = 0
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
                if not self._dry:
                    path.unlink()
        self._removed.add(Going(kind, named.relative_to(self._home.runs).as_posix(), size))

    def _is_needed(self, job: EndedJob) -> bool:
        in_use = self._needed.now()
        return job.id in in_use.job_ids or job.parent_id in in_use.job_ids or job.run_dir in in_use.run_dirs

    def _size(self, folder: str) -> int:
        try:
            return tree_size(self._home.runs / folder)
        except OSError:
            return 0


def _checkpoints(folder: Path, keep: int) -> list[Path]:
    """The arrays of those checkpoints that may go, without the newest ``keep`` that are whole and the best one."""
    found = checkpoint_files.listing(folder, verify=False)
    kept = [one.path for one in found if one.problem is None][:keep]
    return [folder / one.path for one in found if one.path not in kept and not one.best]
