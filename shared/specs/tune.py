"""A job that trains another job again and again with other parameters, to find the best ones."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.specs import space as spaces
from shared.specs.export import JOB_PATTERN
from shared.specs.job import JobFields, PublishSpec, Seconds, TrainJob
from shared.specs.optimiser import (
    GridSampler,
    NoPruner,
    Objectives,
    Pruner,
    Sampler,
    TpeSampler,
)
from shared.specs.space import Path, Space

MAX_TRIALS = 10_000
DEFAULT_TRIALS = 20
# So many combinations of a grid are tried out against the base job at submission, so many values of a parameter, and so
# many of all parameters together: each takes about a millisecond.
CHECKED_COMBINATIONS = 256
CHECKED_VALUES = 100
CHECKED_IN_ALL = 2000
# What a trial writes, where the base job does not say: what a table of trials needs, and no more.
LIGHT: Mapping[str, Mapping[str, Any]] = {
    "tensorboard": {
        "histogram_freq": 0,
        "write_images": False,
        "write_graph": False,
        "sample_images": 0,
        "confusion_matrix": False,
        "text": False,
    },
    "checkpoint": {"every": "30s", "keep": 1, "best": None},
}
# What a trial has from its study, or no trial has.
_FIXED = frozenset(
    {"kind", "name", "labels", "publish", "retry", "deadline", "project", "priority", "queue", "tensorboard"}
)


class _LeadsNowhere(ValueError):
    """A parameter's path is no field of the base job."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


class TuneJob(Objectives, JobFields):
    """Train ``base`` with parameters from ``space``, trial by trial, and publish the best trial if asked.

    Its trials are train jobs of their own, run by any workers. It holds no worker itself.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["tune"] = "tune"
    base: TrainJob = Field(description="The train job, without 'publish'. Its retry is each trial's.")
    space: Annotated[Space, Field(min_length=1, max_length=spaces.MAX_PARAMETERS)]
    sampler: Sampler = TpeSampler()
    pruner: Pruner = NoPruner()
    max_trials: int | None = Field(
        None,
        ge=1,
        le=MAX_TRIALS,
        description=f"Null: {DEFAULT_TRIALS}, or all combinations of a grid. In a study that continues another, "
        "these come on top.",
    )
    parallel: int = Field(
        4, ge=1, le=1000, description="Trials that wait or run at once. Fewer learn more from each other."
    )
    max_failures: int | None = Field(
        10, ge=0, description="More failed trials than this end the study as failed. Null: any number may."
    )
    timeout_seconds: Seconds | None = Field(
        None, description="No trial begins after so long; the study ends with those that have."
    )
    seed: int = Field(98, ge=0, le=2**31 - 1, description="Of the sampler's draws.")
    enqueue: list[dict[Path, Any]] = Field(
        [],
        max_length=1000,
        description="Parameters to try first, such as known good ones. Those left out are drawn.",
    )
    continue_from: str | None = Field(
        None, pattern=JOB_PATTERN, description="A study whose finished trials count as trials of this one."
    )
    keep_models: Literal["best", "all"] = Field(
        "best",
        description="Whose weights and checkpoints stay on disk once a better trial is known. With several "
        "objectives all do.",
    )
    publish: PublishSpec | None = Field(None, description="Where the best trial's model goes.")

    @field_validator("base", mode="before")
    @classmethod
    def _light(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {**{key: dict(part) for key, part in LIGHT.items()}, **value}
        return value

    @field_validator("base")
    @classmethod
    def _not_published(cls, value: TrainJob) -> TrainJob:
        if value.publish is not None:
            raise _located(
                ("publish",), "A trial is not published: move 'publish' out of 'base', for the best one."
            )
        return value

    @model_validator(mode="after")
    def _can_be_tried(self) -> TuneJob:
        self._check_names()
        self._check_choices()
        self._check_enqueued()
        for candidate, name in self._candidates():
            try:
                self.assigned(candidate)
            except ValidationError as error:
                raise _refused(self.space, candidate, name, error) from None
            except _LeadsNowhere as error:
                raise _located(("space", error.name), str(error)) from None
        return self

    @functools.cached_property
    def order(self) -> list[str]:
        """The parameters' names, each after those it depends on."""
        return spaces.in_order(self.space)

    @functools.cached_property
    def points(self) -> list[dict[str, Any]]:
        """The combinations of a grid that are not tried first; empty for other samplers."""
        return self._without(spaces.grid(self.space), self.enqueue) if self.is_grid else []

    @property
    def is_grid(self) -> bool:
        """Whether there is an end to what can be tried."""
        return isinstance(self.sampler, GridSampler)

    @property
    def trials(self) -> int:
        """How many trials there will be, if nothing ends the study before and it continues no other."""
        return self.trials_after(())

    def trials_after(self, tried: Iterable[Mapping[str, Any]]) -> int:
        """How many trials there will be when trials with these parameters are known already."""
        if self.is_grid:
            every = len(self.enqueue) + len(self.untried(tried))
            return min(self.max_trials or every, every)
        return self.max_trials or DEFAULT_TRIALS

    def untried(self, tried: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The ``points`` that are none of these."""
        return self._without(self.points, tried)

    def _without(
        self, points: Iterable[dict[str, Any]], others: Iterable[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        known = {self._mark(params) for params in others}
        return [point for point in points if self._mark(point) not in known] if known else list(points)

    def _mark(self, params: Mapping[str, Any]) -> str:
        """Alike for the same parameters: 0 as a dropout is 0.0."""
        real = {
            name for name in params if isinstance(self.space.get(name), spaces.Uniform | spaces.LogUniform)
        }
        plain = {name: float(value) if name in real else value for name, value in params.items()}
        return json.dumps(plain, sort_keys=True)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Of each objective, as Optuna says it."""
        return [item.direction for item in self.objective]

    def assigned(self, parameters: Mapping[str, Any]) -> TrainJob:
        """The base job with these parameters: what a trial trains.

        Raises:
            pydantic.ValidationError: the job would not be valid, with the path within it.
            ValueError: a parameter's path leads nowhere, with the reason.
        """
        document = copy.deepcopy(self._document)
        # what is whole before what is a part of it: an optimizer before its momentum
        for name in sorted(parameters, key=lambda name: field_of(name).count(".")):
            # a copy: what lies within a choice may be set by another parameter
            _set(document, field_of(name), copy.deepcopy(parameters[name]), name)
        first = self.objective[0]
        if first.at == "best" and isinstance(document["checkpoint"], dict):
            mode = "min" if first.direction == "minimize" else "max"
            document["checkpoint"]["best"] = {"monitor": first.metric, "mode": mode}
        return TrainJob.model_validate(document)

    @functools.cached_property
    def _document(self) -> dict[str, Any]:
        return self.base.model_dump(mode="json")

    def _check_names(self) -> None:
        fields: dict[str, str] = {}
        for name in self.space:
            path = field_of(name)
            if path.partition(".")[0] in _FIXED:
                raise _located(("space", name), f"{path.partition('.')[0]!r} can't be tuned.")
            if path in fields:
                raise _located(("space", name), f"{fields[path]!r} sets the same field, {path}.")
            fields[path] = name
        try:
            spaces.in_order(self.space)
        except ValueError as error:
            field, _, why = str(error).partition(": ")
            raise _located(tuple(_parts(field, self.space)), why) from None

    def _check_choices(self) -> None:
        beyond = itertools.islice(spaces.grid(self.space), spaces.MAX_GRID, None)
        if self.is_grid and next(beyond, None) is not None:
            raise _located(
                ("sampler",),
                f"The grid has more than {spaces.MAX_GRID} combinations: give 'points' or 'step' to the numbers, "
                "or choose random or tpe.",
            )
        several = len(self.objective) > 1
        if several and not isinstance(self.pruner, NoPruner):
            raise _located(("pruner",), "Trials of several objectives can't be pruned: set it to 'none'.")
        if several and self.sampler.name == "cmaes":
            raise _located(("sampler",), "cmaes knows one objective only: choose tpe, qmc or random.")
        if several and self.publish is not None:
            raise _located(
                ("publish",),
                "Several objectives have no best trial: publish one of the Pareto front with an export job.",
            )
        if several and any(item.at == "best" for item in self.objective):
            raise _located(("objective",), "'at': 'best' goes with one objective only.")
        if self.objective[0].is_final and not isinstance(self.pruner, NoPruner):
            raise _located(
                ("pruner",),
                f"{self.objective[0].metric} is known at the end only, too late to prune: take a val_ metric.",
            )
        if self.objective[0].is_final and self.objective[0].at == "best":
            raise _located(("objective",), "A test_ metric has no epochs to take the best of.")

    def _check_enqueued(self) -> None:
        for index, given in enumerate(self.enqueue):
            for name, value in given.items():
                where = ("enqueue", index, name)
                if name not in self.space:
                    raise _located(where, f"There is no such parameter; there are: {', '.join(self.space)}.")
                if not self.space[name].contains(value):
                    raise _located(where, f"{json.dumps(value)} is not in its space.")
                if not spaces.active(self.space[name], given):
                    raise _located(where, "Its 'when' does not hold for the other values.")
            if self.is_grid:
                for name in self.order:
                    if name not in given and spaces.active(self.space[name], given):
                        raise _located(("enqueue", index), f"A grid draws nothing: give {name} too.")

    def examples(self) -> Iterator[dict[str, Any]]:
        """Parameters at the corners of the space: each value of a choice, both ends of a number."""
        for parameters, _ in self._candidates():
            yield parameters

    def _candidates(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """(parameters, the one that it is about) to try out against the base job."""
        each = max(2, min(CHECKED_VALUES, CHECKED_IN_ALL // len(self.space)))
        for name, parameter in self.space.items():
            for value in parameter.corners()[:each]:
                yield self._with(name, value), name
        if self.is_grid:
            for point in itertools.islice(spaces.grid(self.space), CHECKED_COMBINATIONS):
                yield point, None
        for given in self.enqueue:
            if all(name in given for name in self.order if spaces.active(self.space[name], given)):
                yield dict(given), None

    def _with(self, name: str, value: Any) -> dict[str, Any]:
        """Parameters among which ``name`` is active and has ``value``; the others have their first one."""
        forced = {other: values[0] for other, values in spaces.needed(self.space, name).items()}
        forced[name] = value
        chosen: dict[str, Any] = {}
        for each in self.order:
            if spaces.active(self.space[each], chosen):
                chosen[each] = forced.get(each, self.space[each].corners()[0])
        return chosen


def field_of(name: str) -> str:
    """The field of the base job that a parameter sets."""
    return name if "." in name or name in TrainJob.model_fields else f"model.params.{name}"


def reason(error: ValueError) -> str:
    """Why ``TuneJob.assigned`` has refused parameters, on one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    return f"{path}: {str(first['msg']).removeprefix('Value error, ')}"


def _set(document: dict[str, Any], path: str, value: Any, name: str) -> None:
    *steps, last = path.split(".")
    node: Any = document
    for depth, step in enumerate(steps):
        here = ".".join(steps[: depth + 1])
        key = _index(node, step, here, name) if isinstance(node, list) else step
        found = node.get(key) if isinstance(node, dict) else node[key]
        if isinstance(found, str) and steps[depth + 1 :] == ["params"]:  # an optimizer's name alone
            found = {"name": found, "params": {}}
        elif found is None and (step == "params" or (isinstance(node, dict) and key not in node)):
            found = {}
        elif not isinstance(found, dict | list):
            raise _LeadsNowhere(
                name,
                f"base.{here} is {json.dumps(found)}, which has no {path[len(here) + 1 :]} to set for {name}.",
            )
        node[key] = found
        node = found
    if isinstance(node, list):
        node[_index(node, last, path, name)] = value
    else:
        node[last] = value


def _index(node: list[Any], step: str, here: str, name: str) -> int:
    if not step.isdigit() or int(step) >= len(node):
        raise _LeadsNowhere(name, f"base.{here}: there are {len(node)} items, counted from 0.")
    return int(step)


def _parts(field: str, names: Mapping[str, Any]) -> Iterator[str]:
    """``space.<name>.when`` as its parts; a name has dots of its own."""
    for name in names:
        if field == f"space.{name}.when":
            yield from ("space", name, "when")
            return
    yield field


def _located(where: tuple[int | str, ...], words: str) -> ValidationError:
    wrong = PydanticCustomError("value_error", "{words}", {"words": words})
    return ValidationError.from_exception_data(
        "TuneJob", [InitErrorDetails(type=wrong, loc=where, input=None)]
    )


def _refused(
    space: Mapping[str, Any], candidate: Mapping[str, Any], name: str | None, error: ValidationError
) -> ValidationError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    culprit = _culprit(candidate, name, first["loc"]) if name is not None else None
    if culprit is not None:
        path = field_of(culprit)  # without the tags of unions
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "there is no such field"
    if name is None or culprit not in (None, name):
        shown = candidate if name is None else {key: candidate[key] for key in (name, culprit) if key}
        tried = ", ".join(f"{key} = {json.dumps(value)}" for key, value in shown.items())
        where = ("space", culprit) if culprit else ("space",)
        return _located(where, f"With {tried} the job is not valid: {path}: {message}")
    return _located(
        ("space", name), f"With {json.dumps(candidate[name])} the job is not valid: {path}: {message}"
    )


def _culprit(candidate: Mapping[str, Any], name: str, loc: tuple[int | str, ...]) -> str | None:
    """The parameter that sets what is wrong at ``loc``, the closest one; ``name`` where several are as close."""
    found, depth = None, 0
    for key in (name, *candidate):
        parts = field_of(key).split(".")
        left = iter(str(part) for part in loc)
        if len(parts) > depth and all(part in left for part in parts):  # in this order
            found, depth = key, len(parts)
    return found
