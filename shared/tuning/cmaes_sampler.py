"""CMA-ES whose state is the study's trials.

Optuna's own sampler keeps the optimiser's state in the storage as pickles, which nobody should load who shares a
database with others. This one replays the finished generations instead: some milliseconds for a thousand trials, and
any process comes to the same state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cmaes import CMA
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

GENERATION, POINT = "cma:generation", "cma:point"
_SIGMA = 1 / 6


class CmaesByReplay(BaseSampler):
    """Draws numbers by CMA-ES in the unit cube, all else by ``others``."""

    def __init__(
        self,
        numbers: Mapping[str, BaseDistribution],
        others: BaseSampler,
        *,
        seed_of_trial: Callable[[int], int],
        startup_trials: int,
        population: int | None,
        sigma: float | None,
    ) -> None:
        self._numbers = dict(numbers)
        self._others = others
        self._seed_of_trial = seed_of_trial
        self._startup = startup_trials
        self._population = population
        self._sigma = sigma or _SIGMA

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        # CMA-ES needs two dimensions
        return self._numbers if trial.number >= self._startup and len(self._numbers) > 1 else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        optimiser = self._replayed(study)
        optimiser.reseed_rng(self._seed_of_trial(trial.number))
        point = optimiser.ask()
        for key, value in ((GENERATION, optimiser.generation), (POINT, point.tolist())):
            study._storage.set_trial_system_attr(trial._trial_id, key, value)
        return {
            name: _from_unit(distribution, float(x))
            for (name, distribution), x in zip(search_space.items(), point, strict=True)
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._others.sample_independent(study, trial, param_name, param_distribution)

    def _replayed(self, study: Study) -> CMA:
        size = len(self._numbers)
        optimiser = CMA(
            mean=np.full(size, 0.5),
            sigma=self._sigma,
            bounds=np.tile([0.0, 1.0], (size, 1)),
            seed=0,  # each trial has its own
            population_size=self._population,
        )
        sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
        generations: dict[int, list[tuple[np.ndarray, float]]] = {}
        for trial in _ended(study):
            told = trial.system_attrs
            if GENERATION in told and trial.value is not None and len(told[POINT]) == size:
                generations.setdefault(told[GENERATION], []).append(
                    (np.array(told[POINT]), sign * trial.value)
                )
        while len(ready := generations.get(optimiser.generation, [])) >= optimiser.population_size:
            optimiser.tell(ready[: optimiser.population_size])
        return optimiser


def _ended(study: Study) -> Sequence[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _from_unit(distribution: BaseDistribution, x: float) -> float | int:
    """The value at ``x`` of the way, from 0 to 1, between both ends."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # noqa: S101 - there are no others in a space
    low, high, step = distribution.low, distribution.high, distribution.step
    x = min(1.0, max(0.0, x))
    if isinstance(distribution, IntDistribution):
        low, high = low - 0.5, high + 0.5  # each whole number has a share of its own
    value = math.exp(math.log(low) + x * math.log(high / low)) if distribution.log else low + x * (high - low)
    if step:
        value = distribution.low + round((value - distribution.low) / step) * step
    value = min(distribution.high, max(distribution.low, value))
    return int(value) if isinstance(distribution, IntDistribution) else value
