"""Studies: their trials, the best so far, and what pictures are drawn from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from services.api import render, render_studies
from services.api.deps import JobId, Limit, StoreDep, StudiesDep
from services.api.describe import problems
from services.api.importance import MOST, importances
from services.api.studies import objective_of
from shared.study_views import HistoryView, ImportanceView, ParallelView, StudyView, TrialList, TrialOrder
from shared.trials import TrialStatus

router = APIRouter(tags=["studies"])

ObjectiveName = Annotated[
    str | None,
    Query(
        max_length=120, description="Which objective; the first one when left out.", examples=["val_accuracy"]
    ),
]


@router.get(
    "/jobs/{job_id}/study",
    operation_id="getStudy",
    summary="How a study stands",
    response_model=StudyView,
    responses=problems(404, 409, 503),
)
def get_study(job_id: JobId, studies: StudiesDep) -> Response:
    """Counts, what runs, and the best trial so far, or the Pareto front of several objectives."""
    found = studies.standing(job_id)
    live = studies.live_values(found.spec, found.running)
    return render.answer(render_studies.study(found, live))


@router.get(
    "/jobs/{job_id}/trials",
    operation_id="listTrials",
    summary="List a study's trials",
    response_model=TrialList,
    responses=problems(404, 409, 422, 503),
)
def list_trials(
    job_id: JobId,
    store: StoreDep,
    studies: StudiesDep,
    sort: Annotated[
        TrialOrder,
        Query(description="Trials that lack what is sorted by come last. `value` is the first objective's."),
    ] = "number",
    descending: Annotated[
        bool | None, Query(description="When left out: by value the best first, else upwards.")
    ] = None,
    status: TrialStatus | None = None,
    limit: Limit = 50,
    after: Annotated[
        int | None, Query(ge=0, le=2**31 - 1, description="Number of the last trial of the page before.")
    ] = None,
) -> Response:
    """Each with its parameters, its values, and the first objective's value by epoch."""
    _, spec = studies.open(job_id)
    if descending is None:
        descending = sort == "value" and spec.directions[0] == "maximize"
    found = store.trials.page(
        job_id, order=sort, descending=descending, status=status, after=after, limit=limit
    )
    live = studies.live_values(spec, found.items)
    return render.answer(render.page(found, lambda item: render_studies.trial(item, spec, live)))


@router.get(
    "/jobs/{job_id}/importance",
    operation_id="getImportance",
    summary="How much each parameter matters",
    response_model=ImportanceView,
    responses=problems(404, 409, 422, 503),
)
def get_importance(
    job_id: JobId, store: StoreDep, studies: StudiesDep, objective: ObjectiveName = None
) -> Response:
    """By PED-ANOVA: how far a parameter's values among the best tenth of the trials differ from those among all."""
    _, spec = studies.open(job_id)
    index, wanted = objective_of(spec, objective)
    rows = store.trials.ended(job_id, status=TrialStatus.COMPLETE, newest=MOST)
    shares, partly, count = importances(spec, index, rows)
    return render.answer(
        {
            "metric": wanted.metric,
            "evaluator": "ped_anova",
            "trials": count,
            "importances": shares,
            "left_out": partly,
        }
    )


@router.get(
    "/jobs/{job_id}/history",
    operation_id="getStudyHistory",
    summary="How the best value came to be",
    response_model=HistoryView,
    responses=problems(404, 409, 422, 503),
)
def get_history(
    job_id: JobId,
    studies: StudiesDep,
    objective: ObjectiveName = None,
    max_points: Annotated[int, Query(ge=1, le=10_000, description="More are thinned.")] = 1000,
) -> Response:
    """Values of the trials that have ended, by number; a pruned one's is the last that it had reached."""
    wanted, points, total = studies.history(job_id, objective, max_points)
    return render.answer(render_studies.history(wanted, points, total))


@router.get(
    "/jobs/{job_id}/parallel",
    operation_id="getParallelCoordinates",
    summary="Trials as parallel coordinates",
    response_model=ParallelView,
    responses=problems(404, 409, 422, 503),
)
def get_parallel(
    job_id: JobId,
    studies: StudiesDep,
    max_lines: Annotated[
        int, Query(ge=1, le=10_000, description="The newest trials, at most so many.")
    ] = 1000,
) -> Response:
    """An axis for each parameter, in the space's order, then one for each objective."""
    spec, found = studies.parallel(job_id, max_lines)
    return render.answer(render_studies.parallel(spec, found))
