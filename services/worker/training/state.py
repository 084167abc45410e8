"""A job's training state in memory: taken into a checkpoint, given back from one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training import checkpoints
from services.worker.training.checkpoints import Checkpoint
from services.worker.training.data.record import Array
from services.worker.training.steps import Steps


class State:
    """All variables that training changes: weights, seed generators, optimizer, learning rate, running means."""

    def __init__(self, model: keras.Model, steps: Steps, identity: dict[str, Any]) -> None:
        self._variables: dict[str, Any] = {}
        for group, variables in (
            ("model", model.variables),  # with the seed generators of Dropout, which .weights.h5 leaves out
            ("optimizer", model.optimizer.variables),
            ("metrics", steps.metric_variables),
        ):
            for index, variable in enumerate(variables):
                self._variables[f"{group}/{index:05d}"] = variable
        shapes = {name: [*variable.shape] for name, variable in self._variables.items()}
        self.identity = {**identity, "shapes": shapes}

    def take(self) -> dict[str, Array]:
        """Copies of all values."""
        return _taken(self._variables)

    def give_back(self, arrays: Mapping[str, Array]) -> None:
        """Assign what ``take`` took; on another number of replicas, what a reader of the copies would have seen."""
        copies = Counter(key.rpartition("@")[0] for key in arrays if key.startswith("replicas/"))
        for name, variable in self._variables.items():
            parts = _parts(name, variable)
            if copies[f"replicas/{name}"] != sum(1 for part_name, _ in parts if part_name != name):
                parts = [(name, variable)]
            for part_name, part in parts:
                part.assign(tf.cast(arrays[part_name], part.dtype))

    def take_metrics(self) -> dict[str, Array]:
        """Copies of the running means alone."""
        return _taken({name: v for name, v in self._variables.items() if name.startswith("metrics/")})

    def give_back_metrics(self, arrays: Mapping[str, Array]) -> None:
        """Assign what ``take_metrics`` took."""
        for name, variable in self._variables.items():
            for part_name, part in _parts(name, variable):
                if part_name in arrays:
                    part.assign(arrays[part_name])


def _taken(variables: Mapping[str, Any]) -> dict[str, Array]:
    found = {name: _portable(variable.numpy()) for name, variable in variables.items()}
    for name, variable in variables.items():
        for part_name, part in _parts(name, variable):
            if part_name not in found:
                found[part_name] = _portable(part.numpy())
    return found


def _portable(value: Any) -> Array:
    """A copy; bfloat16, which NumPy's files can't hold, as float32, which can hold all of its values."""
    array = np.array(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _parts(name: str, variable: Any) -> list[tuple[str, Any]]:
    """The variable, or its copy on each replica where these differ until they are read (running means, BatchNorm).

    Reading such a variable adds or averages its copies, so what is read is for readers of the checkpoint, but no state
    to go on from.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if (
        isinstance(value, tf.distribute.DistributedValues)
        and getattr(value, "synchronization", None) == tf.VariableSynchronization.ON_READ
    ):
        return [(f"replicas/{name}@{replica}", copy) for replica, copy in enumerate(value.values)]
    return [(name, variable)]


def find(
    folders: list[Path], identity: dict[str, Any], warn: Callable[[str, str], None]
) -> tuple[Path, Checkpoint] | None:
    """The newest sound checkpoint of this very training in the first folder that has one, and that folder.

    Args:
        folders: checkpoint folders, own run first.
        identity: of this job; a checkpoint of other data, shapes or seed is passed over.
        warn: told about each that is damaged or foreign, as (code, sentence).
    """
    passed_over = 0
    for folder in folders:
        for path, found in checkpoints.newest(folder):
            passed_over += 1
            if isinstance(found, str):
                warn(
                    "checkpoint_damaged", f"The checkpoint {path.name} is damaged and is passed over: {found}"
                )
            elif found.identity != identity:
                keys = sorted(key for key in identity if found.identity.get(key) != identity[key])
                warn(
                    "checkpoint_foreign",
                    f"The checkpoint {path.name} belongs to another training ({', '.join(keys)} differ) and is "
                    "passed over",
                )
            else:
                return folder, found
    if passed_over:
        warn("checkpoint_none", "No checkpoint is left to go on from: training starts from scratch")
    return None
