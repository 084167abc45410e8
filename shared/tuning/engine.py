"""Optuna's study as a mirror of ours: it samples and prunes there, and what it says is stored in our tables.

The store is the truth. A mirror is built from it once per process, and from then on takes in only what has changed; a
mirror whose words could not be stored is thrown away.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from shared.specs import TuneJob
from shared.specs.optimiser import NoPruner
from shared.specs.space import Choice, Int, LogUniform, Parameter, Uniform, active, as_category
from shared.trials import Study, Told, Trial, TrialSource, TrialStatus
from shared.tuning import pruners, samplers

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {
    TrialStatus.WAITING: TrialState.RUNNING,
    TrialStatus.RUNNING: TrialState.RUNNING,
    TrialStatus.COMPLETE: TrialState.COMPLETE,
    TrialStatus.PRUNED: TrialState.PRUNED,
    TrialStatus.FAILED: TrialState.FAIL,
    TrialStatus.CANCELLED: TrialState.FAIL,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the optimiser wants tried. ``attrs`` is what it remembers of the trial."""

    number: int
    source: TrialSource
    params: dict[str, Any]
    attrs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pruner says after an epoch."""

    stop: bool
    attrs: dict[str, Any]
    changed: bool  # whether attrs are other than before


class Engine:
    """One study's mirror. Hold ``lock`` around what belongs together."""

    def __init__(self, study_id: str, spec: TuneJob) -> None:
        self.study_id = study_id
        self.lock = threading.RLock()
        self.spec = spec
        self.revision = -1
        self._distributions = {name: _distribution(spec.space[name]) for name in spec.order}
        self._storage = InMemoryStorage()
        self.optuna: optuna.Study = optuna.create_study(
            storage=self._storage,
            study_name=study_id,  # brackets of Hyperband are told by it
            directions=[*spec.directions],
            pruner=pruners.make(spec),
            sampler=samplers.make(spec, self._distributions, 0),
        )
        self._ids: list[int] = []  # Optuna's ids of trials, by number
        self._inherited: list[dict[str, Any]] = []  # parameters of the trials taken over from another study
        self._points: list[dict[str, Any]] | None = None

    def sync(self, study: Study, rows: Iterable[Trial]) -> None:
        """Take in the study as it is now, and its trials that have changed since ``revision``, by number."""
        for key, value in study.attrs.items():
            self._storage.set_study_system_attr(self.optuna._study_id, key, value)
        for row in rows:
            if row.number == len(self._ids):
                self._ids.append(self._storage.create_new_trial(self.optuna._study_id, self._frozen(row)))
                if row.source is TrialSource.INHERITED:
                    self._inherited.append(row.params)
                    self._points = None
            else:
                self._update(row)
        self.revision = study.revision

    def tell(self, told: Told) -> None:
        """A trial has ended."""
        trial_id = self._ids[told.number]
        if self._storage.get_trial(trial_id).state.is_finished():
            return
        for epoch, value in told.intermediate:
            self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        values = told.values
        if told.status is TrialStatus.PRUNED and told.intermediate:
            values = [told.intermediate[-1][1]]  # as Optuna's own tell does
        self._storage.set_trial_state_values(trial_id, _STATES[told.status], values)

    def ask(self, count: int) -> list[Asked]:
        """The next trials; fewer than ``count`` when a grid comes to its end."""
        asked = []
        for _ in range(count):
            number = len(self._ids)
            given, source = self._given(number)
            if given is None and self.spec.is_grid:
                break
            if given is not None:
                self.optuna.enqueue_trial({name: self._inside(name, value) for name, value in given.items()})
            self.optuna.sampler = samplers.make(self.spec, self._distributions, number)
            trial = self.optuna.ask()
            self._ids.append(trial._trial_id)
            params: dict[str, Any] = {}
            for name in self.spec.order:
                if active(self.spec.space[name], params):
                    params[name] = self._suggest(trial, name)
            attrs = dict(self._storage.get_trial(trial._trial_id).system_attrs)
            asked.append(Asked(trial.number, source, params, attrs))
        return asked

    @property
    def attrs(self) -> dict[str, Any]:
        """What the optimiser remembers of the study."""
        return dict(self._storage.get_study_system_attrs(self.optuna._study_id))

    @property
    def prunes(self) -> bool:
        """Whether trials may be ended early."""
        return not isinstance(self.spec.pruner, NoPruner)

    def epoch(self, number: int, epoch: int, value: float) -> Verdict:
        """A trial's first objective after an epoch, from 1, in order."""
        trial_id = self._ids[number]
        trial = self._storage.get_trial(trial_id)
        if trial.state.is_finished():
            return Verdict(False, dict(trial.system_attrs), False)
        self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        stop = self.optuna.pruner.prune(self.optuna, self._storage.get_trial(trial_id))
        attrs = dict(self._storage.get_trial(trial_id).system_attrs)
        return Verdict(stop, attrs, attrs != trial.system_attrs)

    def left(self, study: Study) -> int:
        """How many trials are still to be asked for."""
        return max(0, self.total(study) - study.asked)

    def total(self, study: Study) -> int:
        """How many trials there are to be, without inherited ones."""
        if not self.spec.is_grid:
            return self.spec.trials
        every = len(self.spec.enqueue) + len(self._grid())
        return min(self.spec.max_trials or every, every)

    def best(self, told: Sequence[Told], known: int | None) -> int | None:
        """The number of the best complete trial, now that these have ended too; None with several objectives."""
        if len(self.spec.objective) > 1:
            return None
        lower = self.spec.directions[0] == "minimize"
        best, value = known, None if known is None else self.value(known)
        for item in told:
            if item.status is not TrialStatus.COMPLETE or not item.values:
                continue
            new = item.values[0]
            if value is None or (new < value if lower else new > value):
                best, value = item.number, new
        return best

    def front(self) -> list[int]:
        """Numbers of the trials that no other one beats in all objectives; of one objective, the best ones."""
        return sorted(trial.number for trial in self.optuna.best_trials) if self._ids else []

    def value(self, number: int) -> float | None:
        """The first objective of a complete trial."""
        values = self._storage.get_trial(self._ids[number]).values
        return values[0] if values else None

    def _given(self, number: int) -> tuple[dict[str, Any] | None, TrialSource]:
        begun = number - len(self._inherited)
        if begun < len(self.spec.enqueue):
            return dict(self.spec.enqueue[begun]), TrialSource.ENQUEUED
        if self.spec.is_grid:
            points = self._grid()
            index = begun - len(self.spec.enqueue)
            return (points[index] if index < len(points) else None), TrialSource.SAMPLER
        return None, TrialSource.SAMPLER

    def _grid(self) -> list[dict[str, Any]]:
        """The combinations that no inherited trial has tried."""
        if self._points is None:
            self._points = self.spec.untried(self._inherited)
        return self._points

    def _frozen(self, row: Trial) -> FrozenTrial:
        state = _STATES[row.status]
        values = row.values
        if row.status is TrialStatus.PRUNED and row.intermediate:
            values = [row.intermediate[-1][1]]
        began = datetime.fromtimestamp(row.asked_at)
        # not by create_trial, which checks values: what is stored was tried, be it a hair's breadth off its step
        return FrozenTrial(
            number=row.number,
            trial_id=-1,
            state=state,
            value=None,
            values=values if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
            datetime_start=began,
            datetime_complete=began if state.is_finished() else None,
            params={name: self._inside(name, value) for name, value in row.params.items()},
            distributions={name: self._distributions[name] for name in row.params},
            user_attrs={},
            system_attrs=dict(row.attrs),
            intermediate_values=dict(row.intermediate or []),
        )

    def _update(self, row: Trial) -> None:
        trial_id = self._ids[row.number]
        if self._storage.get_trial(trial_id).state.is_finished():
            return
        for key, value in row.attrs.items():
            self._storage.set_trial_system_attr(trial_id, key, value)
        if row.status.ended:
            self.tell(Told(row.number, row.status, row.values, row.intermediate or []))

    def _suggest(self, trial: optuna.Trial, name: str) -> Any:
        match self.spec.space[name], self._distributions[name]:
            case Choice(choice=values), CategoricalDistribution(choices=categories):
                found = trial.suggest_categorical(name, categories)
                return values[_index(categories, found)]
            case _, IntDistribution() as whole:
                return trial.suggest_int(name, whole.low, whole.high, step=whole.step, log=whole.log)
            case _, FloatDistribution() as real:
                return trial.suggest_float(name, real.low, real.high, step=real.step, log=real.log)
        raise AssertionError(name)

    def _inside(self, name: str, value: Any) -> Any:
        """A parameter's value as Optuna has it."""
        parameter, distribution = self.spec.space[name], self._distributions[name]
        if isinstance(parameter, Choice) and isinstance(distribution, CategoricalDistribution):
            texts = [json.dumps(item, sort_keys=True) for item in parameter.choice]
            return distribution.choices[texts.index(json.dumps(value, sort_keys=True))]
        return float(value) if isinstance(distribution, FloatDistribution) else value


def _distribution(parameter: Parameter) -> BaseDistribution:
    match parameter:
        case Choice(choice=values):
            plain = [as_category(value) for value in values]
            if any(one == other for i, one in enumerate(plain) for other in plain[:i]):
                plain = [json.dumps(value, sort_keys=True) for value in values]  # 1, 1.0 and true are equal
            return CategoricalDistribution(plain)
        case Int(int_=(low, high), step=step, log=log):
            return IntDistribution(low, low + (high - low) // step * step, log=log, step=step)
        case Uniform(uniform=(low, high), step=None):
            return FloatDistribution(low, high)
        case Uniform() as stepped:
            return FloatDistribution(*stepped.ends, step=stepped.step)
        case LogUniform(loguniform=(low, high)):
            return FloatDistribution(low, high, log=True)
    raise AssertionError(parameter)


def _index(categories: Sequence[Any], found: Any) -> int:
    return next(i for i, item in enumerate(categories) if item == found)
