"""Opening a job's strategy: the first thing that TensorFlow is asked for after its devices are set up."""

from __future__ import annotations

from services.worker.training.failures import TrainingFailed
from services.worker.training.strategies.opened import OpenStrategy
from shared.specs import DefaultStrategy, StrategySpec


def open(spec: StrategySpec) -> OpenStrategy:
    """The strategy that ``spec`` asks for. Model, optimizer and metrics are created in its ``scope``.

    Raises:
        TrainingFailed: strategy_unavailable: this machine, or this version of Modelyard, can't run it.
    """
    if isinstance(spec, DefaultStrategy):
        return OpenStrategy("default", None)
    raise TrainingFailed(
        "strategy_unavailable",
        f"The strategy {spec.kind} can't be run yet.",
        "Leave strategy out, which trains on one device.",
    )
