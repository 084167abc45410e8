"""Which trials of one study count as trials of another that continues it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from shared.errors import InvalidInput
from shared.specs import TuneJob
from shared.specs.space import active
from shared.trials import Study, Trial, TrialStatus


def inheritable(spec: TuneJob, old: dict[str, Any], rows: Iterable[Trial]) -> list[Trial]:
    """The complete and pruned trials among ``rows`` whose parameters the new space has.

    Args:
        old: the earlier study's spec, as the store has it.

    Raises:
        InvalidInput: the two studies measure different things, or try different parameters.
    """
    try:
        before = TuneJob.model_validate(old)
    except ValidationError as error:
        raise InvalidInput(
            "The study to continue can't be read by this version.", field="continue_from"
        ) from error
    if [(item.metric, item.direction, item.at) for item in before.objective] != [
        (item.metric, item.direction, item.at) for item in spec.objective
    ]:
        raise InvalidInput(
            "The study to continue has another objective, so that its values say nothing here.",
            code="study_differs",
            field="objective",
            hint="Take its objective, or leave out continue_from.",
        )
    if set(before.space) != set(spec.space):
        raise InvalidInput(
            f"The study to continue has other parameters: {', '.join(before.space)}.",
            code="study_differs",
            field="space",
            hint="Take its parameters (their ranges may differ), or leave out continue_from.",
        )
    kept = (TrialStatus.COMPLETE, TrialStatus.PRUNED)
    found = [row for row in rows if row.status in kept and contains(spec, row.params)]
    return found if before.space == spec.space else [replace(row, attrs={}) for row in found]


def remembered(spec: TuneJob, old: dict[str, Any], study: Study) -> dict[str, Any]:
    """What the optimiser of the new study remembers of the old one: nothing, if the spaces differ."""
    return dict(study.attrs) if TuneJob.model_validate(old).space == spec.space else {}


def contains(spec: TuneJob, params: dict[str, Any]) -> bool:
    """Whether the space can give exactly these parameters."""
    for name, parameter in spec.space.items():
        if active(parameter, params) != (name in params):
            return False
        if name in params and not parameter.contains(params[name]):
            return False
    return True
