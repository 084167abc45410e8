"""Reads one prediction of a classifier for a person: the class with the highest probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Top:
    """The likeliest class; ``index`` and ``probability`` are None for what is not a list of probabilities."""

    name: str
    index: int | None = None
    probability: float | None = None


def top(prediction: Any, classes: Sequence[str] | None) -> Top:
    """What a prediction says, in whatever form the signature gives it: a list of probabilities, an object that holds
    one, or something else, which is shown as it is.
    """
    if isinstance(prediction, dict):
        scores = next((value for value in prediction.values() if _is_scores(value)), None)
        if scores is None:
            return Top(name=str(prediction))
        prediction = scores
    if not _is_scores(prediction):
        return Top(name=str(prediction))
    index = max(range(len(prediction)), key=prediction.__getitem__)
    known = classes is not None and index < len(classes)
    return Top(classes[index] if known and classes else str(index), index, float(prediction[index]))


def _is_scores(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) > 1 and all(isinstance(item, (int, float)) for item in value)
    )
