"""Checks a tune job against what is really there: each of the jobs that it may train, as far as they differ."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from shared.errors import InvalidInput, NotFound
from shared.jobs import JobState
from shared.specs import JobSpec, TrainJob, TuneJob
from shared.specs.tune import field_of
from shared.store import Store
from shared.trials import Trial
from shared.tuning.inheritance import inheritable

NOTHING_LEFT = "nothing_left_to_try"
EXAMPLES = 5
MOST_CHECKED = 50


class StudyChecks:
    """Thread-safe."""

    def __init__(self, store: Store, check: Callable[[JobSpec], dict[str, Any]]) -> None:
        self._store = store
        self._check = check

    def check(self, spec: TuneJob) -> dict[str, Any]:
        """What is known of the study before it runs, as members of its plan.

        Raises:
            InvalidInput: the base job, or one that the space makes of it, could not work; with the field to mend.
        """
        inherited = self._inherited(spec)
        count = spec.trials_after(row.params for row in inherited)
        code: dict[str, Any] = {}
        first: dict[str, Any] | None = None
        for job, parameters in _different(spec):
            try:
                found = self._check(job)
            except InvalidInput as error:
                raise _placed(error, spec, parameters) from None
            code |= found["code"]
            first = first or found
        known = first or {}
        left = spec.untried(row.params for row in inherited)
        examples = left[:EXAMPLES] or list(itertools.islice(spec.examples(), EXAMPLES))
        warnings = list(known.get("warnings", ()))
        if spec.max_trials is not None and len(spec.points) + len(spec.enqueue) > spec.trials:
            warnings.append(f"The grid has {len(spec.points)} combinations, of which {count} are tried.")
        if any(item.is_final for item in spec.objective):
            warnings.append(
                "The objective is of the test rows: they are no longer unseen when the best trial is chosen by them."
            )
        return {
            **known,
            "code": code,
            "trials": {
                "count": count,
                "inherited": len(inherited),
                "parameters": spec.order,
                "examples": examples,
            },
            "warnings": warnings,
        }

    def _inherited(self, spec: TuneJob) -> list[Trial]:
        if spec.continue_from is None:
            return []
        try:
            job = self._store.jobs.get(spec.continue_from)
            _, rows = self._store.studies.since(spec.continue_from)
        except NotFound as error:
            raise InvalidInput(error.message, code="study_not_found", field="continue_from") from None
        if not job.state.terminal:
            raise InvalidInput(
                f"The study {job.id} is {job.state}.",
                code="study_not_ended",
                field="continue_from",
                hint="Wait for its end, or cancel it.",
            )
        found = inheritable(spec, job.spec, rows)
        # one that failed, say at publishing, may come to its end without another trial
        if job.state is JobState.SUCCEEDED and not spec.trials_after(row.params for row in found):
            raise InvalidInput(
                f"All combinations of the grid have been tried in the study {job.id} or before it.",
                code=NOTHING_LEFT,
                field="continue_from",
                hint="Submit a tune job with continue_from and a wider space or another sampler. To publish its best "
                "trial, submit an export job from that.",
            )
        return found


def _different(spec: TuneJob) -> Iterator[tuple[TrainJob, dict[str, Any]]]:
    """Jobs that the space makes, with their parameters: one for each data, model and batch size there can be."""
    seen: set[str] = set()
    for parameters in itertools.islice(spec.examples(), 2000):
        job = spec.assigned(parameters)
        mark = job.model_dump_json(include={"model": True, "dataset": True, "fit": {"batch_size"}})
        if mark not in seen:
            seen.add(mark)
            yield job, parameters
        if len(seen) >= MOST_CHECKED:
            return


def _placed(error: InvalidInput, spec: TuneJob, parameters: dict[str, Any]) -> InvalidInput:
    """The error at the parameter that sets its field, or at the field of the base job."""
    field = error.field or ""
    for name, value in parameters.items():
        path = field_of(name)
        if field == path or field.startswith(f"{path}.") or path.startswith(f"{field}."):
            message = f"With {name} = {json.dumps(value)}: {error.message}"
            return InvalidInput(message, code=error.code, hint=error.hint, field=f"space.{name}")
    return InvalidInput(
        error.message, code=error.code, hint=error.hint, field=f"base.{field}" if field else "base"
    )
