"""A train job that is a trial: its values are looked at epoch by epoch, and it may be ended early.

The pruner is asked on a thread of its own, so that neither the program nor its supervisor ever waits for it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from services.worker.protocol import EpochEnded, Finished, TrialFacts
from services.worker.study_sessions import StudySessions
from shared.errors import ModelyardError, Unavailable
from shared.jobs import Job, JobError
from shared.specs import TuneJob
from shared.specs.optimiser import Objective
from shared.store import Store
from shared.trials import Trial
from shared.tuning.engines import Engines

SETTLE_SECONDS = 10.0
log = logging.getLogger(__name__)


class TrialFailed(ModelyardError):
    """The trial has no value that could be compared."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Makes a watch for each trial that this worker runs. Thread-safe; the pruner has one thread for all."""

    store: Store
    engines: Engines
    pool: ThreadPoolExecutor
    sessions: StudySessions

    def watch(self, job: Job) -> TrialWatch | None:
        """The watch over ``job``; None if it is no trial.

        Raises:
            Unavailable: the store does not answer.
        """
        if job.parent_id is None or job.kind != "train":
            return None
        trial = self.store.studies.trial_of(job.id)
        if trial is None:
            return None
        watch = TrialWatch(self, trial, job.attempt > 1)
        # not here: the first one loads TensorBoard's records
        self.pool.submit(self.sessions.begun, trial, watch.spec, job.started_at or trial.asked_at)
        return watch


class TrialWatch:
    """One attempt at one trial. ``stop`` is set when the trial is to end early."""

    def __init__(self, parts: Trials, trial: Trial, resumed: bool) -> None:
        self.stop = threading.Event()
        self._parts = parts
        self._trial = trial
        self._stop_epoch = trial.stop_epoch
        self._failed: TrialFailed | None = None
        self._engine = parts.engines.of(trial.study_id)
        self._objectives: Sequence[Objective] = self._engine.spec.objective
        self._pending: list[Future[None]] = []
        self._seen = 0
        if trial.stop_epoch is not None:  # the attempt that should have ended was lost
            self.stop.set()
        elif resumed and self._engine.prunes:
            known = parts.store.studies.values_by_epoch(trial.job_id, self._objectives[0].metric)
            for epoch, value in known:
                self._ask(epoch, value)

    @property
    def spec(self) -> TuneJob:
        """The study's."""
        return self._engine.spec

    @property
    def facts(self) -> TrialFacts:
        """What the training program is told."""
        final = any(item.is_final for item in self._objectives)
        return TrialFacts(
            study_id=self._trial.study_id,
            number=self._trial.number,
            params=self._trial.params,
            evaluate=final,
        )

    @property
    def failed(self) -> TrialFailed | None:
        """Why it is not worth going on."""
        return self._failed

    def epoch(self, event: EpochEnded) -> None:
        """An epoch has ended; returns at once."""
        for item in self._objectives:
            if not item.is_final and item.metric not in event.metrics:
                self._failed = _missing(item.metric, event.metrics)
                self.stop.set()
                return
        value = event.metrics.get(self._objectives[0].metric)
        if self._engine.prunes and value is not None and math.isfinite(value):
            self._ask(event.epoch, value)

    def pruned(self) -> JobError | None:
        """Why it was ended early, once the pruner has looked at all epochs; None: it was not."""
        wait(self._pending, SETTLE_SECONDS)
        if self._stop_epoch is None:
            return None
        return JobError(
            "pruned",
            f"Ended after epoch {self._stop_epoch}: other trials of {self._trial.study_id} were better by then.",
            hint="That is what the study's pruner is for. To see it through, submit its spec as a job of its own.",
        )

    def values(self, finished: Finished) -> list[float]:
        """Of each objective, when training has ended and all epochs are in the store.

        Raises:
            TrialFailed: objective_missing or objective_not_finite.
        """
        return [self._value(item, finished) for item in self._objectives]

    def _value(self, item: Objective, finished: Finished) -> float:
        if item.is_final:
            if item.metric not in finished.metrics:
                raise _missing(item.metric, finished.metrics)
            if not math.isfinite(finished.metrics[item.metric]):
                raise _not_finite(item.metric)
            return finished.metrics[item.metric]
        if item.at == "best":
            value = finished.best_value  # this metric's, by the trial's own checkpoint.best
        elif item.metric in finished.last_metrics:
            value = finished.last_metrics[item.metric]
        else:
            raise _missing(item.metric, finished.last_metrics)
        if value is None or not math.isfinite(value):
            raise _not_finite(item.metric)
        return value

    def _ask(self, epoch: int, value: float) -> None:
        if epoch <= self._seen:
            return  # trained again after a loss of the worker; the pruner has seen it
        self._seen = epoch
        self._pending = [item for item in self._pending if not item.done()]
        self._pending.append(self._parts.pool.submit(self._judge, epoch, value))

    def _judge(self, epoch: int, value: float) -> None:
        """On the pruner's thread, epoch by epoch."""
        if self._stop_epoch is not None:
            return
        trial = self._trial
        try:
            with self._engine.lock:
                self._parts.engines.sync(self._engine)
                verdict = self._engine.epoch(trial.number, epoch, value)
            if verdict.stop or verdict.changed:
                self._parts.store.studies.note_pruning(
                    trial.study_id,
                    trial.number,
                    attrs=verdict.attrs,
                    stop_epoch=epoch if verdict.stop else None,
                )
            if verdict.stop:
                self._stop_epoch = epoch
                self.stop.set()
        except Unavailable as error:
            log.warning("%s: the pruner was not asked: %s", trial.job_id, error.message)
        except Exception:
            log.exception("%s: the pruner failed; the trial goes on", trial.job_id)


def _missing(metric: str, known: dict[str, float]) -> TrialFailed:
    return TrialFailed(
        f"The objective {metric!r} is none of the trial's metrics: {', '.join(sorted(known)) or 'it has none'}.",
        code="objective_missing",
        hint="Name one of these as the objective's metric, or add it to fit.metrics of the base job.",
    )


def _not_finite(metric: str) -> TrialFailed:
    return TrialFailed(
        f"The objective {metric!r} is no finite number at the end of training.", code="objective_not_finite"
    )
