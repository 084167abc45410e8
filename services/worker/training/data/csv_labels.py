"""The label column of a csv file, gathered block by block: as numbers, or as codes of texts, never as texts a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from services.worker.training.data.checks import MAX_CLASSES
from services.worker.training.data.record import Array
from services.worker.training.failures import data_invalid

LONGEST_SHOWN = 80


class Labels:
    """Takes blocks of cells; 12 bytes a row while it may be either, and texts only once each.

    Labels are numbers if all cells are. Else they are texts, of which there may be as many as there may be classes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows = 0
        self._numbers: list[Array] | None = []
        self._codes: list[Array] | None = []
        self._known: dict[str, int] = {}
        self.first_text = ""  # that is no number

    def __len__(self) -> int:
        return self._rows

    def take(self, cells: Any) -> None:
        """Add an array of strings without nulls.

        Raises:
            TrainingFailed: data_invalid: texts, and too many different ones for classes.
        """
        encoded = cells.dictionary_encode()
        values: list[str] = encoded.dictionary.to_pylist()
        indices = encoded.indices.to_numpy()
        self._rows += len(indices)
        if self._numbers is not None:
            numbers = [_number(value) for value in values]
            if None in numbers:
                self._numbers, self.first_text = None, values[numbers.index(None)][:LONGEST_SHOWN]
            else:
                self._numbers.append(np.asarray(numbers, np.float64)[indices])
        if self._codes is not None:
            table = [self._known.setdefault(value, len(self._known)) for value in values]
            self._codes.append(np.asarray(table, np.int32)[indices])
            if len(self._known) > MAX_CLASSES:
                self._codes, self._known = None, {}
        if self._numbers is None and self._codes is None:
            raise data_invalid(
                f"the label column {self._name!r} has more than {MAX_CLASSES} different values, and text such as "
                f"{self.first_text!r} among them",
                "Name another column in dataset.label: texts are classes, and these are too many to learn.",
            )

    def numbers(self) -> Array | None:
        """float64 [rows], which may hold NaN or infinity where the cells say so; None if the labels are texts."""
        if self._numbers is None:
            return None
        return np.concatenate(self._numbers) if self._numbers else np.empty(0)

    def texts(self) -> tuple[list[str], Array]:
        """The different texts in alphabetical order, and int32 [rows]: which one each row has.

        Raises:
            ValueError: there are so many that they are kept as numbers alone.
        """
        if self._codes is None:
            raise ValueError(f"{self._name}: more than {MAX_CLASSES} different values")
        values = sorted(self._known)
        place = np.empty(len(values), np.int32)
        place[[self._known[value] for value in values]] = np.arange(len(values), dtype=np.int32)
        return values, place[np.concatenate(self._codes)] if self._codes else np.empty(0, np.int32)


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # 1_000 is a number to Python alone
    except ValueError:
        return None
