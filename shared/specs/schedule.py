"""Learning rates that change: Keras' own LearningRateSchedule classes by name, and tables of steps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from shared.specs.base import Spec

Rate = Annotated[float, Field(gt=0, le=100)]
Length = Annotated[int, Field(ge=1, le=2**31 - 1)]


class CosineDecayParams(Spec):
    """From ``initial_learning_rate`` (up to ``warmup_target`` first, if given) along half a cosine."""

    initial_learning_rate: float = Field(ge=0, le=100)
    decay_steps: Length
    alpha: float = Field(0.0, ge=0, le=1, description="Last value as a share of the highest.")
    warmup_target: Rate | None = None
    warmup_steps: int = Field(0, ge=0, le=2**31 - 1)


class CosineDecayRestartsParams(Spec):
    """The same, beginning anew after ``first_decay_steps``, each time ``t_mul`` times as long."""

    initial_learning_rate: Rate
    first_decay_steps: Length
    t_mul: float = Field(2.0, ge=1)
    m_mul: float = Field(1.0, gt=0)
    alpha: float = Field(0.0, ge=0, le=1)


class ExponentialDecayParams(Spec):
    """``initial_learning_rate * decay_rate ** (step / decay_steps)``."""

    initial_learning_rate: Rate
    decay_steps: Length
    decay_rate: float = Field(gt=0)
    staircase: bool = False


class InverseTimeDecayParams(Spec):
    """``initial_learning_rate / (1 + decay_rate * step / decay_steps)``."""

    initial_learning_rate: Rate
    decay_steps: Length
    decay_rate: float = Field(gt=0)
    staircase: bool = False


class PiecewiseConstantDecayParams(Spec):
    """``values[0]`` up to step ``boundaries[0]``, ``values[1]`` up to ``boundaries[1]``, and so on."""

    boundaries: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=1000)
    values: list[Rate] = Field(min_length=2, max_length=1001)

    @model_validator(mode="after")
    def _fit(self) -> PiecewiseConstantDecayParams:
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError("values must be one more than boundaries")
        if sorted(set(self.boundaries)) != self.boundaries:
            raise ValueError("boundaries must ascend")
        return self


class PolynomialDecayParams(Spec):
    """From ``initial_learning_rate`` to ``end_learning_rate`` by a power of what is left."""

    initial_learning_rate: Rate
    decay_steps: Length
    end_learning_rate: float = Field(0.0001, ge=0, le=100)
    power: float = Field(1.0, gt=0)
    cycle: bool = False


class CosineDecay(Spec):
    name: Literal["CosineDecay"]
    params: CosineDecayParams


class CosineDecayRestarts(Spec):
    name: Literal["CosineDecayRestarts"]
    params: CosineDecayRestartsParams


class ExponentialDecay(Spec):
    name: Literal["ExponentialDecay"]
    params: ExponentialDecayParams


class InverseTimeDecay(Spec):
    name: Literal["InverseTimeDecay"]
    params: InverseTimeDecayParams


class PiecewiseConstantDecay(Spec):
    name: Literal["PiecewiseConstantDecay"]
    params: PiecewiseConstantDecayParams


class PolynomialDecay(Spec):
    name: Literal["PolynomialDecay"]
    params: PolynomialDecayParams


def _keras_form(value: Any) -> Any:
    """``{"class_name", "config"}``, as Keras writes schedules, is the same as ``{"name", "params"}``."""
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        config = value["config"]
        return {
            "name": value["class_name"],
            "params": {key: item for key, item in config.items() if key != "name"}
            if isinstance(config, dict)
            else config,
        }
    return value


Schedule = Annotated[
    Annotated[
        CosineDecay
        | CosineDecayRestarts
        | ExponentialDecay
        | InverseTimeDecay
        | PiecewiseConstantDecay
        | PolynomialDecay,
        Field(discriminator="name"),
    ],
    BeforeValidator(_keras_form),
]


def _from_zero(table: dict[int, float]) -> dict[int, float]:
    if 0 not in table:
        raise ValueError('needs an entry for epoch "0"')
    return dict(sorted(table.items()))


EpochTable = Annotated[
    dict[Annotated[int, Field(ge=0, le=100_000)], Rate],
    Field(min_length=1, max_length=10_000),
    AfterValidator(_from_zero),
]


def _kind(value: Any) -> str:
    named = isinstance(value, dict) and ("name" in value or "class_name" in value)
    return "schedule" if named or hasattr(value, "params") else "table"


TableOrSchedule = Annotated[
    Annotated[EpochTable, Tag("table")] | Annotated[Schedule, Tag("schedule")], Discriminator(_kind)
]


def _rate_kind(value: Any) -> str:
    return "schedule" if isinstance(value, dict) or hasattr(value, "params") else "number"


LearningRate = Annotated[
    Annotated[Rate, Tag("number")] | Annotated[Schedule, Tag("schedule")], Discriminator(_rate_kind)
]
