"""A study's records on TensorBoard's HParams page, as its steps and its trials' supervisors make them.

Nothing here ends a step or a trial: what can't be written now (a full disk) is not shown, and said in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.worker import study_board
from services.worker.study_board import Metric, Parameter
from shared.home import Home
from shared.jobs import Job
from shared.specs import TuneJob
from shared.specs.space import Choice, Int, LogUniform, Uniform
from shared.trials import Told, Trial, TrialStatus

MOST_INHERITED = 1000  # the newest; so many a page shows at most
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudySessions:
    """Thread-safe; every call may be made again."""

    home: Home

    def described(self, job: Job, spec: TuneJob) -> None:
        """The study has its folder."""
        if not spec.base.tensorboard.hparams or job.run_dir is None:
            return
        folder = self.home.runs / job.run_dir
        metrics = [
            *(Metric.of(item.metric) for item in spec.objective),
            *(Metric.objective(item.metric) for item in spec.objective),
        ]
        self._tried(
            lambda: study_board.write_experiment(
                folder,
                name=job.name or job.id,
                about=f"{job.id}: {spec.sampler.name}, pruner {spec.pruner.name}",
                parameters=parameters_of(spec),
                metrics=metrics,
                created_at=job.created_at,
            )
        )

    def begun(self, trial: Trial, spec: TuneJob, at: float) -> None:
        """A worker has taken the trial up."""
        if not spec.base.tensorboard.hparams or trial.run_dir is None:
            return
        folder = self.home.runs / trial.run_dir
        self._tried(lambda: _begun(folder, trial.number, trial.params, spec, at))

    def ended(self, trial: Trial, told: Told, spec: TuneJob, at: float) -> None:
        """How the trial ended. One that was cancelled while it waited has never been a session."""
        if not spec.base.tensorboard.hparams or trial.run_dir is None:
            return
        if told.status is TrialStatus.CANCELLED and trial.started_at is None:
            return
        folder = self.home.runs / trial.run_dir
        self._tried(lambda: _whole(folder, trial.number, trial, told, spec, at))

    def inherited(self, job: Job, spec: TuneJob, rows: Sequence[Trial]) -> None:
        """Trials of an earlier study are shown with what they were judged by; their curves stay where they are."""
        if not spec.base.tensorboard.hparams or job.run_dir is None:
            return
        study = self.home.runs / job.run_dir

        def write() -> None:
            for number, row in list(enumerate(rows))[-MOST_INHERITED:]:
                folder = study / f"trial-{number:05d}-{row.job_id}"
                told = Told(number, row.status, row.values, row.intermediate or [])
                _whole(folder, number, row, told, spec, row.told_at or row.asked_at)

        self._tried(write)

    def _tried(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            log.warning("a study's records for TensorBoard were not written: %s", error)


def _begun(folder: Path, number: int, params: Mapping[str, Any], spec: TuneJob, at: float) -> None:
    # the page sorts by name
    name = f"trial {number:0{len(str(spec.trials - 1))}}"
    study_board.trial_begun(folder, name=name, parameters=parameters_of(spec), values=params, at=at)


def _whole(folder: Path, number: int, trial: Trial, told: Told, spec: TuneJob, at: float) -> None:
    """A trial that was pruned is shown with the last value that it had reached."""
    _begun(folder, number, trial.params, spec, trial.started_at or at)
    values = told.values or [value for _, value in told.intermediate[-1:]]
    judged: dict[str, float | None] = dict(
        zip((item.metric for item in spec.objective), values, strict=False)
    )
    success = told.status in (TrialStatus.COMPLETE, TrialStatus.PRUNED)
    study_board.trial_ended(folder, success=success, at=at, judged=judged)


def parameters_of(spec: TuneJob) -> list[Parameter]:
    """The space as columns."""
    found = []
    for name, parameter in spec.space.items():
        match parameter:
            case Choice():
                found.append(Parameter(name, choices=tuple(parameter.choice)))
            case Int():
                found.append(Parameter(name, interval=parameter.int_))
            case Uniform():
                found.append(Parameter(name, interval=parameter.uniform))
            case LogUniform():
                found.append(Parameter(name, interval=parameter.loguniform))
    return found
