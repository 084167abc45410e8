"""How a tune job looks for good parameters: the sampler, the pruner, and what is better."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from shared.specs.base import Spec

_LOWER_IS_BETTER = ("loss", "error", "mae", "mse", "mape", "msle", "crossentropy", "divergence", "hinge")


def lower_is_better(name: str) -> bool:
    """Whether less of a metric is better, by its name: losses and errors yes, all else no."""
    return any(part in name.lower() for part in _LOWER_IS_BETTER)


class Objective(Spec):
    """One metric of a trial."""

    metric: str = Field(
        "val_loss",
        min_length=1,
        max_length=120,
        description="As a job shows it: loss, accuracy, val_loss, val_accuracy, ... at an epoch's end; test_accuracy "
        "and the like are of the final evaluation.",
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="Null: by the metric's name; losses and errors are minimised, all else maximised."
    )
    at: Literal["last", "best"] = Field(
        "last",
        description="The metric's value after the last epoch, or after its best one. With best it is that epoch's "
        "model that is published.",
    )

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """As Optuna says it."""
        mode = self.mode or ("min" if lower_is_better(self.metric) else "max")
        return "minimize" if mode == "min" else "maximize"

    @property
    def is_final(self) -> bool:
        """Whether it is known after the final evaluation only."""
        return self.metric.startswith("test_")


class GridSampler(Spec):
    """Every combination once, the first parameter changing slowest."""

    name: Literal["grid"] = "grid"


class RandomSampler(Spec):
    """Independent draws."""

    name: Literal["random"] = "random"


class TpeSampler(Spec):
    """Tree-structured Parzen estimator: draws where good trials were denser than bad ones."""

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(10, ge=0, le=10_000, description="Random ones first.")
    multivariate: bool = Field(True, description="Model parameters together rather than one by one.")
    candidates: int = Field(24, ge=1, le=10_000, description="Draws among which the best one is taken.")


class CmaesSampler(Spec):
    """Covariance matrix adaptation, for numbers; choices are drawn at random."""

    name: Literal["cmaes"] = "cmaes"
    startup_trials: int = Field(1, ge=0, le=10_000, description="Random ones first.")
    population: int | None = Field(None, ge=2, le=10_000, description="Null: 4 + floor(3 ln(parameters)).")
    sigma: float | None = Field(
        None, gt=0, description="First step, in the unit cube's measure. Null: a sixth."
    )


class QmcSampler(Spec):
    """Quasi-random numbers, more evenly spread than random ones; choices are drawn at random."""

    name: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"
    scramble: bool = True


class NoPruner(Spec):
    """All trials run to their end."""

    name: Literal["none"] = "none"


class MedianPruner(Spec):
    """Ends a trial whose best value so far is worse than the median of the others' at the same epoch."""

    name: Literal["median"] = "median"
    startup_trials: int = Field(
        5, ge=0, le=10_000, description="So many must be complete before any is ended."
    )
    warmup_epochs: int = Field(0, ge=0, le=100_000, description="None is ended before.")
    every_epochs: int = Field(1, ge=1, le=100_000)


class AshaPruner(Spec):
    """Asynchronous successive halving: at each rung, only the best 1/reduction_factor of the trials go on."""

    name: Literal["asha"] = "asha"
    min_epochs: int = Field(1, ge=1, le=100_000, description="Epochs at the first rung.")
    reduction_factor: int = Field(3, ge=2, le=100)


class HyperbandPruner(Spec):
    """Several successive halvings at once, from bold to careful."""

    name: Literal["hyperband"] = "hyperband"
    min_epochs: int = Field(1, ge=1, le=100_000)
    max_epochs: int | None = Field(
        None, ge=1, le=100_000, description="Null: the base job's epochs, or the most that the space has."
    )
    reduction_factor: int = Field(3, ge=2, le=100)


INSIDE_PATIENT = ("median", "asha", "hyperband")
_ALIASES = {
    "successive_halving": "asha",
    "quasi_random": "qmc",
    "cma-es": "cmaes",
    "median_pruner": "median",
}


def _named(value: Any) -> Any:
    """A bare name is the name alone; other names in use become ours."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        value = {**value, "name": _ALIASES.get(value["name"], value["name"])}
    return value


def _inside_patient(value: Any) -> Any:
    value = _named(value)
    if isinstance(value, dict) and value.get("name") not in INSIDE_PATIENT:
        raise ValueError(f"inside 'patient' goes one of {', '.join(INSIDE_PATIENT)}, or null")
    return value


class PatientPruner(Spec):
    """Lets a trial go on while it improves: it is ended only after ``patience`` epochs without progress, and if the
    pruner inside agrees.
    """

    name: Literal["patient"] = "patient"
    patience: int = Field(3, ge=0, le=100_000)
    min_delta: float = Field(0.0, ge=0.0)
    pruner: Annotated[
        Annotated[MedianPruner, Tag("median")]
        | Annotated[AshaPruner, Tag("asha")]
        | Annotated[HyperbandPruner, Tag("hyperband")]
        | None,
        BeforeValidator(_inside_patient),
    ] = Field(None, description="Null: no progress alone ends a trial.")


def _by_name(kind: str, names: tuple[str, ...]) -> Discriminator:
    def pick(value: Any) -> str | None:
        found = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
        return found if isinstance(found, str) and found in names else None

    return Discriminator(
        pick,
        custom_error_type=f"{kind}_name",
        custom_error_message=f"name one of {', '.join(names)}; alone, or as 'name' beside its options",
    )


SAMPLERS = ("grid", "random", "tpe", "cmaes", "qmc")
PRUNERS = ("none", "median", "asha", "hyperband", "patient")

Sampler = Annotated[
    Annotated[GridSampler, Tag("grid")]
    | Annotated[RandomSampler, Tag("random")]
    | Annotated[TpeSampler, Tag("tpe")]
    | Annotated[CmaesSampler, Tag("cmaes")]
    | Annotated[QmcSampler, Tag("qmc")],
    _by_name("sampler", SAMPLERS),
    BeforeValidator(_named),
]
Pruner = Annotated[
    Annotated[NoPruner, Tag("none")]
    | Annotated[MedianPruner, Tag("median")]
    | Annotated[AshaPruner, Tag("asha")]
    | Annotated[HyperbandPruner, Tag("hyperband")]
    | Annotated[PatientPruner, Tag("patient")],
    _by_name("pruner", PRUNERS),
    BeforeValidator(_named),
]


class Objectives(Spec):
    """One or several objectives; several have no best trial but a Pareto front."""

    objective: list[Objective] = Field(
        [Objective()],
        min_length=1,
        max_length=4,
        description="What is better: a metric with its mode, or a list of them.",
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [value]
        return [{"metric": item} if isinstance(item, str) else item for item in items]

    @field_validator("objective")
    @classmethod
    def _each_once(cls, value: list[Objective]) -> list[Objective]:
        names = [item.metric for item in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is named twice")
        return value
