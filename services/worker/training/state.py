"""A job's training state in memory: taken into a checkpoint, given back from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

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
        return {name: np.array(variable.numpy()) for name, variable in self._variables.items()}

    def give_back(self, arrays: dict[str, Array]) -> None:
        """Assign what ``take`` took."""
        for name, variable in self._variables.items():
            variable.assign(arrays[name])

    def take_metrics(self) -> dict[str, Array]:
        """Copies of the running means alone."""
        return {
            name: np.array(v.numpy()) for name, v in self._variables.items() if name.startswith("metrics/")
        }

    def give_back_metrics(self, arrays: dict[str, Array]) -> None:
        """Assign what ``take_metrics`` took."""
        for name, array in arrays.items():
            self._variables[name].assign(array)


def find(
    folders: list[Path], identity: dict[str, Any], warn: Callable[[str, str], None]
) -> Checkpoint | None:
    """The newest sound checkpoint of this very training in the first folder that has one.

    Args:
        folders: checkpoint folders, own run first.
        identity: of this job; a checkpoint of other data, shapes or seed is passed over.
        warn: told about each that is damaged or foreign, as (code, sentence).
    """
    for folder in folders:
        for path, found in checkpoints.newest(folder):
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
                return found
    return None
