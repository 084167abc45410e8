"""The mirrors that a process has of its studies."""

from __future__ import annotations

import threading
from collections import OrderedDict

from shared.specs import TuneJob
from shared.store import Store
from shared.trials import Study
from shared.tuning.engine import Engine

MOST = 16


class Engines:
    """Keeps the studies that were last worked on. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Engine] = OrderedDict()

    def of(self, study_id: str) -> Engine:
        """The mirror of a study, as it was when it was last in step.

        Raises:
            NotFound: there is no such job.
            pydantic.ValidationError: the stored job can't be read by this version.
        """
        with self._lock:
            found = self._known.get(study_id)
            if found is not None:
                self._known.move_to_end(study_id)
                return found
        made = Engine(study_id, TuneJob.model_validate(self._store.jobs.get(study_id).spec))
        with self._lock:
            found = self._known.setdefault(study_id, made)
            while len(self._known) > MOST:
                self._known.popitem(last=False)
            return found

    def sync(self, engine: Engine) -> Study:
        """Bring a mirror in step with the store; call it with the mirror's lock held."""
        study, rows = self._store.studies.since(engine.study_id, engine.revision)
        engine.sync(study, rows)
        return study

    def forget(self, study_id: str) -> None:
        """What the mirror said could not be stored, or its study has ended: it is built anew when it is needed."""
        with self._lock:
            self._known.pop(study_id, None)
