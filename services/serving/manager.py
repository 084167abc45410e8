"""Versions through their lives: one harness each, driven by the policy, given out as counted handles.

Threads: ``start`` runs one thread that asks the policy and starts what it says; loads and unloads run in a pool
of their own and hold no lock meanwhile. A request takes no lock that any of them holds for longer than a few
dictionary operations: it reads an immutable table and counts itself in at the version's own lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.harness import Harness, Table
from services.serving.integrity import Fingerprint, fingerprint, missing_part
from services.serving.policy import Load, Snapshot, State, Unload, next_action
from services.serving.signature import Servable

log = logging.getLogger("serving.manager")

# How often a failed version's folder is looked at, for files that still arrive.
_RECHECK_SECONDS = 1.0
# TensorFlow Serving lists every version that ever was (its issue 1488); this many ended ones are kept.
_KEPT_ENDED = 100


@dataclass(frozen=True)
class RetryRule:
    """How often a failed load is tried again, and how long after. Meanwhile the version stays LOADING."""

    retries: int = 5
    interval_seconds: float = 60.0


@dataclass(frozen=True)
class VersionStatus:
    """One version as the status answer shows it."""

    version: int
    state: State
    code: Code
    message: str


class ModelManager:
    """All versions of all models.

    Any thread may call any method. ``want`` and ``acquire`` never wait for a load or a request. ``on_table`` is told
    how requests for a model are answered from now on, before anybody can see it in the statuses.
    """

    def __init__(
        self,
        load: Callable[[str], Servable],
        *,
        retry: RetryRule | None = None,
        load_threads: int = 2,
        on_table: Callable[[str, Table], None] | None = None,
    ) -> None:
        self._load = load
        self._retry = retry or RetryRule()
        self._on_table = on_table
        self._lock = threading.Lock()  # guards the three tables below and every harness's state
        self._harnesses: dict[str, dict[int, Harness]] = {}
        self._wanted: dict[str, Mapping[int, str]] = {}
        self._labels: dict[str, Mapping[str, int]] = {}
        self._waiting: list[Harness] = []  # for a thread of the pool to load them
        self._missed: dict[str, float] = {}  # when a model was last asked for in vain
        # Read by requests without the lock: replaced as a whole, never changed.
        self._tables: Mapping[str, Table] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._pool = ThreadPoolExecutor(max_workers=load_threads, thread_name_prefix="load")
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self) -> None:
        """Begin to act on what is wanted."""
        self._thread.start()

    def stop(self) -> None:
        """Start no more loads. Running ones are not waited for, and loaded versions stay in memory."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # What should be there ------------------------------------------------------------------------

    def want(self, model: str, versions: Mapping[int, str], labels: Mapping[str, int] | None = None) -> None:
        """Say which versions of ``model`` (number -> folder) should be served, and what its labels mean.

        Replaces what was said before. A label whose version isn't AVAILABLE yet keeps its old meaning until
        it is, so labels and the versions they name can be set together.
        """
        with self._lock:
            self._wanted[model] = dict(versions)
            self._labels[model] = dict(labels or {})
            self._publish(model)
        self._wake.set()

    def forget(self, model: str) -> None:
        """``model`` is no longer configured: its versions are unloaded."""
        with self._lock:
            self._wanted.pop(model, None)
            self._labels.pop(model, None)
            self._missed.pop(model, None)
        self._wake.set()

    # What is there ---------------------------------------------------------------------------------

    def acquire(self, model: str, version: int | None = None, label: str | None = None) -> Harness:
        """The harness that answers for ``model``, counted in; the caller must ``release`` it.

        With neither version nor label: the highest AVAILABLE version.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label; TensorFlow Serving's texts.
        """
        while True:
            table = self._tables.get(model)
            if label is not None:
                version = table.labels.get(label) if table else None
                if version is None:
                    raise invalid_argument(f"Unrecognized servable version label: {label}")
            asked = version if version is not None else (table.latest if table else None)
            harness = table.versions.get(asked) if table and asked is not None else None
            if harness is None:
                if model in self._wanted:
                    self._missed[model] = time.monotonic()
                request = f"Latest({model})" if version is None else f"Specific({model}, {version})"
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {request}")
            if harness.acquire():
                return harness
            # It began to unload between our look at the table and now; a newer table is there already.

    def statuses(self, model: str, version: int | None = None) -> list[VersionStatus]:
        """All versions of ``model`` that ever were, newest first, or the one asked for.

        Raises:
            ServingError: NOT_FOUND, with TensorFlow Serving's texts.
        """
        with self._lock:
            harnesses = self._harnesses.get(model, {})
            found = [
                VersionStatus(
                    one.version,
                    one.state,
                    one.error.code if one.error and one.state is State.END else Code.OK,
                    one.error.message if one.error and one.state is State.END else "",
                )
                for one in sorted(harnesses.values(), key=lambda one: -one.version)
                if version in (None, one.version)
            ]
        if not found and version is not None:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {model}")
        if not found:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {model}")
        return found

    def models(self) -> dict[str, Table]:
        """The configured models, and those that still serve, by name."""
        with self._lock:
            serving = {model for model, table in self._tables.items() if table.versions}
            return {
                model: self._tables.get(model, Table()) for model in sorted(serving | self._wanted.keys())
            }

    def available(self, model: str) -> bool:
        """Whether any version of ``model`` can answer."""
        return bool(self._tables.get(model, Table()).versions)

    def last_error(self, model: str) -> tuple[int, str] | None:
        """The highest failed version of ``model``, and why it failed; None if none has."""
        with self._lock:
            harnesses = self._harnesses.get(model, {})
            errors = ((version, harnesses[version].error) for version in sorted(harnesses, reverse=True))
            return next(((version, str(error)) for version, error in errors if error), None)

    def version_of(self, model: str, label: str) -> int | None:
        """The version that ``label`` means; None for an unknown label."""
        return self._labels.get(model, {}).get(label)

    def is_available(self, model: str, version: int) -> bool:
        """Whether this version of ``model`` can answer."""
        return version in self._tables.get(model, Table()).versions

    def settled(self) -> dict[str, bool]:
        """Per model with wanted versions: whether it serves, or has failed with each of them at least once."""
        with self._lock:
            return {
                model: bool(self._tables.get(model, Table()).versions)
                or all(self._has_failed(model, version) for version in versions)
                for model, versions in sorted(self._wanted.items())
                if versions
            }

    def pending(self) -> set[str]:
        """The models with a wanted version that has neither been loaded nor failed yet."""
        with self._lock:
            return {
                model
                for model, versions in self._wanted.items()
                if any(self._is_pending(model, version) for version in versions)
            }

    def _is_pending(self, model: str, version: int) -> bool:
        harness = self._harnesses.get(model, {}).get(version)
        return harness is None or (harness.state in (State.START, State.LOADING) and harness.error is None)

    def _has_failed(self, model: str, version: int) -> bool:
        harness = self._harnesses.get(model, {}).get(version)
        return harness is not None and harness.error is not None

    # The manager's thread --------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping:
            self._wake.wait(timeout=pause)
            self._wake.clear()
            pause = _RECHECK_SECONDS
            try:
                with self._lock:
                    actions = [
                        self._advance(model) for model in dict.fromkeys((*self._wanted, *self._harnesses))
                    ]
                    failing = [
                        one for table in self._harnesses.values() for one in table.values() if one.tried
                    ]
                if any(actions):
                    self._wake.set()  # one action a model and a pass; there may be another one
                pause = self._retry_failed(failing)
            except Exception:
                # Nothing here is expected to fail; if it does, serving what is loaded goes on.
                log.exception("the manager's pass failed")

    def _advance(self, model: str) -> bool:
        """Bring the harnesses in line with what is wanted, then do the policy's next action, if any."""
        harnesses = self._harnesses.setdefault(model, {})
        wanted = self._wanted.get(model, {})
        for version, path in wanted.items():
            harness = harnesses.get(version)
            if harness is None or harness.retired:
                harnesses[version] = Harness(model, version, path)
            elif harness.state in (State.START, State.LOADING, State.AVAILABLE):
                harness.wanted = True
        for harness in harnesses.values():
            if harness.version not in wanted:
                self._unwant(harness)
        self._drop_old(harnesses)
        action = next_action([Snapshot(one.version, one.state, one.wanted) for one in harnesses.values()])
        if isinstance(action, Load):
            self._submit_load(harnesses[action.version])
        elif isinstance(action, Unload):
            harness = harnesses[action.version]
            self._move(harness, State.UNLOADING)
            self._publish(model)
            harness.close_when_idle(lambda: self._submit(self._unload, harness))
        return action is not None

    def _unwant(self, harness: Harness) -> None:
        harness.wanted = False
        if harness.state is State.START or (
            harness.state is State.LOADING and harness.next_attempt is not None
        ):
            harness.error = harness.error or ServingError(
                Code.CANCELLED, "no longer wanted before it was loaded"
            )
            harness.next_attempt = None
            self._move(harness, State.END)
        if harness.state is State.END:
            harness.tried = ()

    def _drop_old(self, harnesses: dict[int, Harness]) -> None:
        retired = sorted(version for version, one in harnesses.items() if one.retired)
        for version in retired[:-_KEPT_ENDED]:
            del harnesses[version]

    def _retry_failed(self, failing: Iterable[Harness]) -> float:
        """Try again what is due, and what has changed on disk and looks whole now: it was being copied.

        Returns:
            Seconds until the next look.
        """
        now = time.monotonic()
        pause = _RECHECK_SECONDS
        for harness in failing:
            wait = pause if harness.next_attempt is None else harness.next_attempt - now
            if wait > 0:
                pause = min(pause, wait)
                found = fingerprint(harness.path)
                if found in ((), harness.tried) or missing_part(harness.path) is not None:
                    continue
            with self._lock:
                if harness.wanted and not harness.retired:
                    self._submit_load(harness)
        return pause

    # Loading and unloading, in the pool ----------------------------------------------------------------

    def _submit(self, work: Callable[[Harness], None], harness: Harness) -> None:
        if not self._stopping:
            self._pool.submit(work, harness)

    def _submit_load(self, harness: Harness) -> None:
        harness.next_attempt = None
        harness.tried = ()
        if harness.state is not State.LOADING:
            self._move(harness, State.LOADING)
        if not self._stopping:
            self._waiting.append(harness)
            self._pool.submit(self._attempt_next)

    def _attempt_next(self) -> None:
        with self._lock:
            harness = max(self._waiting, key=self._need)
            self._waiting.remove(harness)
        self._attempt(harness)

    def _need(self, harness: Harness) -> tuple[float, bool]:
        """What is loaded first: models asked for lately, then versions with a label, then first come.

        After a restart all models wait at once, and callers are there already.
        """
        labelled = harness.version in self._labels.get(harness.model, {}).values()
        return self._missed.get(harness.model, 0.0), labelled

    def _attempt(self, harness: Harness) -> None:
        began = time.monotonic()
        before = fingerprint(harness.path)
        try:
            servable = self._load(harness.path)
        except Exception as error:
            self._failed(harness, before, error)
        else:
            with self._lock:
                harness.error = None
                harness.open(servable)
                harness.state = State.AVAILABLE
                self._publish(harness.model)
            log.info(
                "%s version %d: AVAILABLE after %.2f s",
                harness.model,
                harness.version,
                time.monotonic() - began,
            )
        self._wake.set()

    def _failed(self, harness: Harness, before: Fingerprint, error: Exception) -> None:
        if not isinstance(error, ServingError):
            error = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        with self._lock:
            harness.error = error
            harness.attempts += 1
            harness.tried = before or (("", 0, 0),)
            if harness.wanted and harness.attempts <= self._retry.retries:
                harness.next_attempt = time.monotonic() + self._retry.interval_seconds
                log.warning(
                    "%s version %d: attempt %d of %d failed, next in %g s: %s",
                    harness.model,
                    harness.version,
                    harness.attempts,
                    self._retry.retries + 1,
                    self._retry.interval_seconds,
                    error,
                )
            else:
                self._move(harness, State.END)

    def _unload(self, harness: Harness) -> None:
        try:
            harness.detach().close()
        except Exception as error:
            log.warning("%s version %d: closing failed: %s", harness.model, harness.version, error)
        with self._lock:
            self._move(harness, State.END)
        self._wake.set()

    # Under the lock --------------------------------------------------------------------------------------

    def _move(self, harness: Harness, state: State) -> None:
        level = logging.ERROR if state is State.END and harness.error else logging.INFO
        note = f" ({harness.error})" if state is State.END and harness.error else ""
        log.log(
            level, "%s version %d: %s -> %s%s", harness.model, harness.version, harness.state, state, note
        )
        harness.state = state

    def _publish(self, model: str) -> None:
        """Replace the model's table by one of what is AVAILABLE now."""
        harnesses = self._harnesses.get(model, {})
        available = {
            version: one for version, one in sorted(harnesses.items()) if one.state is State.AVAILABLE
        }
        old = self._tables.get(model, Table()).labels
        labels: dict[str, int] = {}
        for label, version in self._labels.get(model, {}).items():
            # Until its version is there a label keeps its old meaning; if that is gone too, its requests are
            # answered with "not found", as in TensorFlow Serving.
            kept = version not in available and old.get(label) in available
            labels[label] = old[label] if kept else version
        table = Table(available, max(available, default=None), labels)
        self._tables = {**self._tables, model: table}
        if self._on_table is not None:
            self._on_table(model, table)
