"""Optuna's pruners as our specs name them. Their steps are epochs, counted from 1."""

from __future__ import annotations

import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner

from shared.specs import optimiser
from shared.specs.tune import TuneJob


def make(spec: TuneJob) -> BasePruner:
    """The study's pruner."""
    return _made(spec.pruner, _most_epochs(spec))


def _most_epochs(spec: TuneJob) -> int:
    tuned = spec.space.get("fit.epochs")
    own = [] if tuned is not None and tuned.when is None else [spec.base.fit.epochs]
    return max([*own, *(int(value) for value in (tuned.corners() if tuned is not None else ()))])


def _made(spec: optimiser.Pruner, epochs: int) -> BasePruner:
    match spec:
        case optimiser.MedianPruner():
            return optuna.pruners.MedianPruner(
                n_startup_trials=spec.startup_trials,
                n_warmup_steps=spec.warmup_epochs + 1,
                interval_steps=spec.every_epochs,
            )
        case optimiser.AshaPruner():
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=spec.min_epochs, reduction_factor=spec.reduction_factor
            )
        case optimiser.HyperbandPruner():
            return optuna.pruners.HyperbandPruner(
                min_resource=spec.min_epochs,
                max_resource=max(spec.min_epochs, spec.max_epochs or epochs),
                reduction_factor=spec.reduction_factor,
            )
        case optimiser.PatientPruner():
            inside = _made(spec.pruner, epochs) if spec.pruner is not None else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return optuna.pruners.PatientPruner(inside, patience=spec.patience, min_delta=spec.min_delta)
    return optuna.pruners.NopPruner()
