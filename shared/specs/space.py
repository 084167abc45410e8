"""The search space of a tune job: what is tried, parameter by parameter.

A parameter has the name of the field that it sets in the base job: ``fit.learning_rate``, ``model.params.units``,
``dataset.augment.0.params.factor``. A bare name that is no field of a train job means ``model.params.<name>``.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from shared.specs.base import Spec, by_key

MAX_PARAMETERS = 64
MAX_GRID = 10_000
# Beyond it neighbouring steps are the same double, and whole numbers are no longer told apart by an optimiser.
MAX_STEPS = 2**53
Path = Annotated[
    str, StringConstraints(max_length=120, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+){0,9}$")
]
Scalar = None | bool | int | float | str


class Parameter(Spec):
    """What all kinds of parameters have in common."""

    when: dict[Path, Any] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="Only tried where these other parameters have this value, or one of a list of values: "
        '{"fit.optimizer": "sgd"}. Elsewhere the base job\'s own value stays.',
    )

    def grid(self) -> list[Any]:
        """Its values in a grid, in order."""
        raise NotImplementedError

    def corners(self) -> list[Any]:
        """The values that are checked against the base job at submission."""
        raise NotImplementedError

    def contains(self, value: Any) -> bool:
        """Whether ``value`` can be drawn from it."""
        raise NotImplementedError


class Choice(Parameter):
    """One of these values, of any JSON type: a whole object such as an optimizer with its options too."""

    choice: list[Any] = Field(min_length=1, max_length=1000)

    @field_validator("choice")
    @classmethod
    def _each_once(cls, value: list[Any]) -> list[Any]:
        seen: dict[Scalar, str] = {}
        for item in value:
            text = _text(item)
            other = seen.get(as_category(item))
            if other is not None:
                same = "is named twice" if other == text else f"equals {other} to the optimiser"
                raise ValueError(f"{text} {same}")
            seen[as_category(item)] = text
        return value

    def grid(self) -> list[Any]:
        return list(self.choice)

    def corners(self) -> list[Any]:
        return list(self.choice)

    def contains(self, value: Any) -> bool:
        return _text(value) in {_text(item) for item in self.choice}


class Int(Parameter):
    """A whole number from the first to the last, both included."""

    model_config = ConfigDict(serialize_by_alias=True)

    int_: tuple[Annotated[int, Field(strict=True)], Annotated[int, Field(strict=True)]] = Field(
        alias="int", description="[first, last]"
    )
    step: int = Field(1, ge=1, description="Distance between two values.")
    log: bool = Field(False, description="Small numbers are tried as often as large ones.")
    points: int | None = Field(
        None, ge=1, le=1000, description="Values in a grid, evenly spread. Null: all of them."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Int:
        low, high = self.int_
        _ordered(low, high)
        if max(abs(low), abs(high), self.step) > MAX_STEPS:
            raise ValueError(
                f"whole numbers from -{MAX_STEPS} to {MAX_STEPS} can be tuned, that is 2 to the 53rd"
            )
        if self.log and (low < 1 or self.step != 1):
            raise ValueError("log needs a first value of at least 1, and no step")
        return self

    def grid(self) -> list[Any]:
        low, high = self.int_
        if self.points is None:
            return list(itertools.islice(range(low, high + 1, self.step), MAX_GRID + 1))
        numbers = _spread(low, high, self.points, log=self.log)
        steps = (low + self.step * round((number - low) / self.step) for number in numbers)
        return sorted({min(step, low + (high - low) // self.step * self.step) for step in steps})

    def corners(self) -> list[Any]:
        low, high = self.int_
        return [low, low + (high - low) // self.step * self.step]

    def contains(self, value: Any) -> bool:
        low, high = self.int_
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and low <= value <= high and (value - low) % self.step == 0


class Uniform(Parameter):
    """Any number from the first to the last, all alike."""

    uniform: tuple[float, float] = Field(description="[first, last]")
    step: float | None = Field(None, gt=0, description="Distance between two values. Null: any number.")
    points: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Values in a grid, evenly spread. Null: both ends, or with step all values.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Uniform:
        low, high = self.uniform
        _ordered(low, high)
        if not math.isfinite(high - low):
            raise ValueError("the first value is too far from the last one")
        if self.step is not None and (high - low) / self.step > MAX_STEPS:
            raise ValueError(f"a step of {self.step:g} is too small for this range")
        return self

    def grid(self) -> list[Any]:
        low, high = self.ends
        if self.step is None:
            return _spread(low, high, self.points or 2)
        first, step = Decimal(str(low)), Decimal(str(self.step))
        last = int((Decimal(str(high)) - first) // step)
        steps = list(range(min(last, MAX_GRID) + 1))
        if self.points is not None:
            steps = sorted({round(place) for place in _spread(0, last, self.points)})
        return [float(first + step * i) for i in steps]

    @property
    def ends(self) -> tuple[float, float]:
        """The first value and the last one that it can have."""
        low, high = self.uniform
        if self.step is None:
            return low, high
        # as they are written: three steps of 0.1 are 0.3, and not a bit more
        first, step = Decimal(str(low)), Decimal(str(self.step))
        return low, float(first + (Decimal(str(high)) - first) // step * step)

    def corners(self) -> list[Any]:
        return list(self.ends)

    def contains(self, value: Any) -> bool:
        low, high = self.ends
        if not _is_number(value) or not low <= value <= high:
            return False
        steps = 0.0 if self.step is None else (value - low) / self.step
        return math.isclose(steps, round(steps), rel_tol=1e-12, abs_tol=1e-8)


class LogUniform(Parameter):
    """Any number from the first to the last, each order of magnitude as likely as the others."""

    loguniform: tuple[float, float] = Field(description="[first, last], above 0")
    points: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Values in a grid, evenly spread by their logarithm. Null: both ends.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> LogUniform:
        low, high = self.loguniform
        _ordered(low, high)
        if low <= 0:
            raise ValueError("both ends must be above 0")
        return self

    def grid(self) -> list[Any]:
        return _spread(*self.loguniform, self.points or 2, log=True)

    def corners(self) -> list[Any]:
        return list(self.loguniform)

    def contains(self, value: Any) -> bool:
        return _is_number(value) and self.loguniform[0] <= value <= self.loguniform[1]


_by_key = by_key("choice", "int", "uniform", "loguniform")


def _kind(value: Any) -> str | None:
    return "int" if isinstance(value, Int) else _by_key(value)


Dimension = Annotated[
    Annotated[Choice, Tag("choice")]
    | Annotated[Int, Tag("int")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")],
    Discriminator(
        _kind,
        custom_error_type="parameter_kind",
        custom_error_message="name exactly one of 'choice', 'int', 'uniform' or 'loguniform'",
    ),
]
Space = dict[Path, Dimension]


def in_order(space: Mapping[str, Parameter]) -> list[str]:
    """The parameters' names, each after those that its ``when`` names; else as written.

    Raises:
        ValueError: ``when`` names no parameter of the space, a value that it never has, goes round in a circle, or
            never holds.
    """
    for name, parameter in space.items():
        for other, wanted in (parameter.when or {}).items():
            if other not in space:
                raise ValueError(
                    f"space.{name}.when: there is no parameter {other!r}; there are: {', '.join(space)}"
                )
            for value in _alternatives(wanted):
                if not space[other].contains(value):
                    meant = isinstance(wanted, list) and space[other].contains(wanted)
                    hint = f"; for the list itself write [{_text(wanted)}]" if meant else ""
                    raise ValueError(f"space.{name}.when: {other!r} is never {_text(value)}{hint}")
    done: list[str] = []
    left = list(space)
    while left:
        ready = [name for name in left if all(other in done for other in space[name].when or {})]
        if not ready:
            raise ValueError(
                f"space.{left[0]}.when: the conditions of {', '.join(left)} go round in a circle"
            )
        done.append(ready[0])
        left.remove(ready[0])
    for name in done:
        for other, values in needed(space, name).items():
            if not values:
                raise ValueError(f"space.{name}.when: it never holds: no value of {other!r} suits all of it")
    return done


def needed(space: Mapping[str, Parameter], name: str) -> dict[str, list[Any]]:
    """The parameters that ``name`` depends on, at once or by others, each with the values that let it be tried."""
    found: dict[str, list[Any]] = {}
    asking, asked = [name], {name}
    while asking:
        for other, wanted in (space[asking.pop()].when or {}).items():
            texts = {_text(value) for value in _alternatives(wanted)}
            found[other] = [
                value for value in found.get(other, _alternatives(wanted)) if _text(value) in texts
            ]
            if other not in asked:
                asked.add(other)
                asking.append(other)
    return found


def active(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    """Whether ``parameter`` is tried, now that the parameters before it have been ``chosen``."""
    return all(
        other in chosen and _text(chosen[other]) in {_text(value) for value in _alternatives(wanted)}
        for other, wanted in (parameter.when or {}).items()
    )


def grid(space: Mapping[str, Parameter]) -> Iterator[dict[str, Any]]:
    """Each combination of all parameters' grid values once, the first parameter changing slowest."""
    order = in_order(space)
    values = {name: space[name].grid() for name in order}

    def below(depth: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if depth == len(order):
            yield chosen
            return
        name = order[depth]
        if not active(space[name], chosen):
            yield from below(depth + 1, chosen)
            return
        for value in values[name]:
            yield from below(depth + 1, {**chosen, name: value})

    return below(0, {})


def as_category(value: Any) -> Scalar:
    """A choice as an optimiser and a table can hold it: plain values as they are, all else as JSON text."""
    return value if value is None or isinstance(value, bool | int | float | str) else _text(value)


def _alternatives(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordered(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"the first value, {low:g}, is above the last one, {high:g}")


def _spread(low: float, high: float, points: int, *, log: bool = False) -> list[float]:
    """``points`` numbers from ``low`` to ``high``, both ends exact; one alone is the middle."""
    if low == high:
        return [low]
    if points == 1:
        return [math.sqrt(low * high) if log else (low + high) / 2]
    parts = [i / (points - 1) for i in range(1, points - 1)]
    inner = [low * (high / low) ** part if log else low + (high - low) * part for part in parts]
    return [low, *inner, high]
