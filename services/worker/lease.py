"""Keeps a job's lease while its supervisor is busy with other things."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import copy_context

from shared.errors import ModelyardError, StaleClaim, Unavailable
from shared.jobs import Claim
from shared.store import Store

FLAG_SECONDS = 0.5  # how often the cancel flag is looked at; a cancel should feel immediate
log = logging.getLogger(__name__)


class LeaseKeeper:
    """A thread that renews one lease, notices a cancel, and notices when the claim was lost.

    ``lost`` is final: the job is somebody else's or has ended, and this attempt must stop at once. A store that
    does not answer is not a loss: the lease is renewed when it is back, if nobody swept the job meanwhile.
    """

    def __init__(self, store: Store, claim: Claim, *, lease_seconds: float, every_seconds: float) -> None:
        self.cancel_requested = threading.Event()
        self.lost = threading.Event()
        self._store = store
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=f"lease-{claim.job_id}", daemon=True
        )

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def note_cancel(self, requested: bool) -> None:
        """Other writes learn of the flag too."""
        if requested:
            self.cancel_requested.set()

    def note_lost(self) -> None:
        """The store refused a write."""
        self.lost.set()

    def _run(self) -> None:
        renewed = time.monotonic()
        pause = min(FLAG_SECONDS, self._every)
        while not self._stop.wait(pause):
            try:
                if time.monotonic() - renewed >= self._every:
                    self.note_cancel(self._store.claims.renew(self._claim, self._lease_seconds))
                    renewed = time.monotonic()
                elif not self.cancel_requested.is_set():
                    self.note_cancel(self._store.claims.cancel_requested(self._claim))
            except StaleClaim:
                self.note_lost()
                return
            except Unavailable as error:
                log.warning("%s: can't renew the lease: %s", self._claim.job_id, error.message)
            except ModelyardError:
                log.exception("%s: renewing the lease", self._claim.job_id)
