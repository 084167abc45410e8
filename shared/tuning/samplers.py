"""Optuna's samplers as our specs name them.

A draw depends on the study's seed, the trial's number and the trials before it, never on what a process did before: any
worker may ask for the next trial, and a restarted one draws the same.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from shared.specs.optimiser import CmaesSampler, QmcSampler, TpeSampler
from shared.specs.tune import TuneJob
from shared.tuning.cmaes_sampler import CmaesByReplay


def make(spec: TuneJob, distributions: Mapping[str, BaseDistribution], number: int) -> BaseSampler:
    """The sampler that draws trial ``number``."""
    # the trials of a study that goes on are numbered anew, and must not be drawn again
    salt = (spec.seed, spec.continue_from or "")
    match spec.sampler:
        case TpeSampler(startup_trials=startup, multivariate=multivariate, candidates=candidates):
            return TPESampler(
                n_startup_trials=startup,
                n_ei_candidates=candidates,
                multivariate=multivariate,
                seed=seed_of(*salt, number),
                constant_liar=spec.parallel > 1,  # what runs counts as bad, so that it is not tried twice
            )
        case CmaesSampler(startup_trials=startup, population=population, sigma=sigma):
            return CmaesByReplay(
                numbers_of(spec, distributions),
                EachAlone(*salt),
                seed_of_trial=functools.partial(seed_of, *salt),
                startup_trials=startup,
                population=population,
                sigma=sigma,
            )
        case QmcSampler(sequence=sequence, scramble=scramble):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return _Qmc(
                    numbers_of(spec, distributions),
                    qmc_type=sequence,
                    scramble=scramble,
                    seed=spec.seed,
                    independent_sampler=EachAlone(*salt),
                    warn_independent_sampling=False,
                )
    return EachAlone(*salt)


def numbers_of(spec: TuneJob, distributions: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """The parameters that have an order and are in every trial: what can be drawn together."""
    return {
        name: found
        for name, found in sorted(distributions.items())
        if not isinstance(found, CategoricalDistribution) and not found.single() and not spec.space[name].when
    }


def seed_of(*parts: int | str) -> int:
    """A seed for NumPy from ``parts``, each of which changes all of it."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


class EachAlone(RandomSampler):
    """Draws each parameter of each trial from a generator of its own."""

    def __init__(self, *salt: int | str) -> None:
        super().__init__(seed=0)
        self._salt = salt

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        alone = RandomSampler(seed=seed_of(*self._salt, trial.number, param_name))
        return alone.sample_independent(study, trial, param_name, param_distribution)


class _Qmc(QMCSampler):
    """From the first trial on: Optuna's own waits for one that has ended to learn the space from, and we know it."""

    def __init__(self, numbers: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._numbers = numbers

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._numbers
