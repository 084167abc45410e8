"""Before training on several replicas: do they compute what one does?

Replicas can disagree for reasons outside anyone's code: a driver, NCCL or an interconnect that returns NaN or rubbish
(tensorflow issues 90686 and 62915), or inside the user's: a layer that looks beyond a row. Weeks of training on
garbage cost more than a few steps, so the first steps are run twice from the same state, on the same global batches:
on the replicas, with the very function that will train, and on one device by a twin of the model. All state is given
back, bit for bit.

What is compared: each step's loss, the metrics, how far the weights went (the norm of the difference over the norm of
the update, over all trainable weights: single ones whose gradient is nothing but rounding may differ by all they
moved), the moving statistics, and whether random states moved alike.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training import twin
from services.worker.training.data.record import Array
from services.worker.training.failures import TrainingFailed
from services.worker.training.state import State
from services.worker.training.steps import Logs, Steps
from services.worker.training.strategies.opened import OpenStrategy

STEPS = 3


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest differences that rounding explains: of losses relative to them, of updates relative to their norm."""

    loss: float
    update: float


EXACT = Tolerance(loss=1e-3, update=0.05)
ROUGH = Tolerance(loss=2e-2, update=0.3)  # 16-bit floats, or a GPU's 19-bit products
FREE = Tolerance(
    loss=math.inf, update=math.inf
)  # layers with randomness of their own: only NaN can be judged


@dataclass(frozen=True, slots=True)
class Differences:
    """Between replicas and one device; the largest of each kind."""

    loss: float
    metrics: float
    update: float
    statistics: float
    random_state: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    losses: Array
    logs: Logs
    state: dict[str, Array]


def check(
    steps: Steps, opened: OpenStrategy, on_one_device: Callable[[keras.Model], Steps]
) -> dict[str, Any]:
    """Run the first steps on ``opened`` and on one device, and compare.

    Args:
        steps: as they will train, in their first state.
        on_one_device: the same steps of a copy of the model, outside of any strategy.

    Returns:
        What the job shows: result (``passed``, or ``skipped`` and why), steps, seconds, differences, tolerance.

    Raises:
        TrainingFailed: preflight_mismatch.
    """
    started = time.monotonic()
    count = min(STEPS, steps.order.steps)
    mine = State(steps.model, steps, {})
    before = mine.take()
    facts: dict[str, Any] = {"steps": count}
    try:
        many = _run(steps, mine, count)
    finally:
        mine.give_back(before)
        steps.reset()
    try:
        with _random_state_kept():
            copy = twin.of(steps.model)
            other = on_one_device(copy)
            theirs = State(copy, other, {})
            theirs.give_back(before)
            one = _run(other, theirs, count)
    except twin.NoTwin as error:
        return facts | {"result": "skipped", "why": f"the model can't be copied ({error})"}
    except tf.errors.ResourceExhaustedError:
        return facts | {"result": "skipped", "why": "one device has no room for the global batch"}
    facts["seconds"] = round(time.monotonic() - started, 3)
    if not _finite(one):  # the model diverges on any number of devices, which training itself will tell
        return facts | {"result": "skipped", "why": "the loss is not finite on one device either"}
    if not _finite(many):
        raise _mismatch(opened, count, ["NaN or infinite numbers came out of the replicas"], one, many)
    tolerance = _tolerance(steps, opened)
    found = _differences(one, many, before, _trainable(steps))
    problems = _problems(found, tolerance, rows=count * steps.order.batch)
    if problems:
        raise _mismatch(opened, count, problems, one, many)
    shown = {name: value for name, value in asdict(tolerance).items() if math.isfinite(value)}
    return facts | {"result": "passed", "differences": asdict(found), "tolerance": shown}


def _run(steps: Steps, state: State, count: int) -> _Outcome:
    losses, logs = steps.train(0, 0, count)
    return _Outcome(losses, logs, state.take())


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Building a model draws seeds from Python's generator."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _tolerance(steps: Steps, opened: OpenStrategy) -> Tolerance:
    if getattr(steps.step, "own_randomness", []):
        return FREE
    rough = any("GPU" in device or "TPU" in device for device in opened.devices)
    return ROUGH if rough or "16" in keras.config.dtype_policy().compute_dtype else EXACT


def _trainable(steps: Steps) -> set[str]:
    """Names of trainable weights in a state."""
    ids = {id(variable) for variable in steps.model.trainable_variables}
    return {f"model/{index:05d}" for index, v in enumerate(steps.model.variables) if id(v) in ids}


def _differences(one: _Outcome, many: _Outcome, before: dict[str, Array], trainable: set[str]) -> Differences:
    statistics, same = 0.0, True
    for name, value in one.state.items():
        if name.startswith("model/") and name not in trainable:
            if value.dtype.kind == "f":
                statistics = max(statistics, _relative({name}, one.state, many.state, before))
            else:
                same = same and bool(np.array_equal(value, many.state[name]))
    losses = np.abs(many.losses - one.losses) / np.maximum(np.abs(one.losses), 1e-3)
    # by place: the twin's metrics may have been given other names
    metrics = [
        abs(a - b) / max(1.0, abs(b)) for a, b in zip(many.logs.values(), one.logs.values(), strict=True)
    ]
    return Differences(
        loss=float(np.max(losses)),
        metrics=float(max(metrics)),
        update=_relative(trainable, one.state, many.state, before),
        statistics=statistics,
        random_state=not same,
    )


def _relative(
    names: set[str], one: dict[str, Array], many: dict[str, Array], before: dict[str, Array]
) -> float:
    """Norm of (many - one) over norm of (one - before); what did not move is measured against its size."""
    off = moved = size = 0.0
    for name in names:
        a, b, c = (values[name].astype(np.float64) for values in (one, many, before))
        off += float(np.sum((b - a) ** 2))
        moved += float(np.sum((a - c) ** 2))
        size += float(np.sum(c**2))
    floor = 1e-5 * math.sqrt(size) + 1e-12
    return math.sqrt(off) / max(math.sqrt(moved), floor)


def _finite(outcome: _Outcome) -> bool:
    weights = (value for name, value in outcome.state.items() if name.startswith("model/"))
    return bool(np.all(np.isfinite(outcome.losses))) and all(
        bool(np.all(np.isfinite(value))) for value in weights if value.dtype.kind == "f"
    )


def _problems(found: Differences, tolerance: Tolerance, *, rows: int) -> list[str]:
    problems = []
    for what, value, limit in (
        ("losses differ by", found.loss, tolerance.loss),
        ("weight updates by", found.update, tolerance.update),
        ("moving statistics by", found.statistics, tolerance.update),
        # a row on the edge between two classes may fall to either side
        ("metrics by", found.metrics, tolerance.loss + 2 / rows),
    ):
        if not value <= limit:
            problems.append(f"{what} {value:.2g} (relative, at most {limit:.2g} is rounding)")
    if found.random_state and math.isfinite(tolerance.loss):
        problems.append("states of random generators differ")
    return problems


def _mismatch(
    opened: OpenStrategy, count: int, problems: list[str], one: _Outcome, many: _Outcome
) -> TrainingFailed:
    losses = (", ".join(f"{loss:.6g}" for loss in outcome.losses) for outcome in (one, many))
    return TrainingFailed(
        "preflight_mismatch",
        f"In {count} steps before training, {opened.replicas} replicas ({opened.kind}) did not compute what one does: "
        f"{'; '.join(problems)}. " + "Losses on one device: {}; on the replicas: {}.".format(*losses),
        "Without layers of your own, suspect the machine: try strategy.cross_device_ops = reduction_to_one_device or "
        "hierarchical_copy, another choice of strategy.devices, NCCL_P2P_DISABLE=1 in the worker's environment, and "
        "versions of driver, CUDA and NCCL that belong together; strategy.kind = default trains on one device. A layer "
        "of your own must treat each row by itself. strategy.preflight = false trains regardless.",
    )
