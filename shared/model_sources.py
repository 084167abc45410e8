"""Finds the files of a trained model that another job exports or goes on from.

A train job keeps them in ``<run>/kept/``, and a published version in ``assets.extra/modelyard/``, in the same form, so
that a version can be trained on when its run is long gone:

    model.json          what a reader can't find in the model: task, classes, input, logits, versions
    architecture.json   Keras' own JSON of the model; there from the start of training
    golden.npz          a few rows of the job's own data, with the training program's own answers
    model.keras         the model at the end of training, with the optimizer's state
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import InvalidInput, NotFound
from shared.home import Home
from shared.jobs import Job, JobState
from shared.specs import FromJob, FromVersion
from shared.store import Store

RUN_FOLDER = "kept"
VERSION_FOLDER = Path("assets.extra") / "modelyard"
FACTS, ARCHITECTURE, GOLDEN, MODEL = "model.json", "architecture.json", "golden.npz", "model.keras"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files lie.

    Attributes:
        folder: with the files named above.
        root: the run's or the version's folder; ``checkpoint`` is relative to it.
        checkpoint: 'best', 'last' or a path of a run; None: ``model.keras``.
        facts: ``model.json``.
        lineage: what a job made from it records: the job, and the version where one was named.
    """

    folder: Path
    root: Path
    checkpoint: str | None
    facts: dict[str, Any]
    lineage: dict[str, Any] = field(default_factory=dict)


def find(source: FromJob | FromVersion, store: Store, home: Home, *, where: str) -> ModelSource:
    """The files that ``source`` names; ``where`` is the field of the spec that does.

    Raises:
        InvalidInput: no such job or version, one that can't be a source, or its files are gone.
    """
    if isinstance(source, FromJob):
        return _of_job(source, store, home, where)
    return _of_version(source, store, home, where)


def _of_job(source: FromJob, store: Store, home: Home, where: str) -> ModelSource:
    try:
        job = store.jobs.get(source.job)
    except NotFound as error:
        raise InvalidInput(
            error.message, code=error.code, field=f"{where}.job", hint="See the jobs with GET /jobs."
        ) from None
    _usable(job, source, where)
    root = home.runs / str(job.run_dir)
    lineage: dict[str, Any] = {"job_id": job.id}
    if source.checkpoint is not None:
        lineage["checkpoint"] = source.checkpoint
    return ModelSource(
        folder=root / RUN_FOLDER,
        root=root,
        checkpoint=source.checkpoint,
        facts=_facts(
            root / RUN_FOLDER,
            needed=MODEL if source.checkpoint is None else ARCHITECTURE,
            what=f"the job {job.id}",
            field=f"{where}.job",
        ),
        lineage=lineage,
    )


def _usable(job: Job, source: FromJob, where: str) -> None:
    if job.kind != "train":
        raise InvalidInput(
            f"The job {job.id} is of kind {job.kind!r}: it trained no model of its own.",
            code="source_not_trained",
            field=f"{where}.job",
            hint="Name the train job, or the version, that it was made from; its spec says which.",
        )
    if source.checkpoint is None and job.state is not JobState.SUCCEEDED:
        raise InvalidInput(
            f"The job {job.id} is {job.state}; there is no finished model of it.",
            code="source_not_finished",
            field=f"{where}.job",
            hint="Name one of its checkpoints with 'checkpoint': 'last'."
            if job.state.terminal
            else "Wait until it has succeeded, or name a checkpoint with 'checkpoint': 'last'.",
        )
    if job.run_dir is None:
        raise InvalidInput(
            f"The job {job.id} has not begun; there is nothing of it yet.",
            code="source_not_finished",
            field=f"{where}.job",
        )


def _of_version(source: FromVersion, store: Store, home: Home, where: str) -> ModelSource:
    try:
        record = store.models.version(source.model, source.version)
    except NotFound as error:
        raise InvalidInput(
            error.message, code=error.code, field=f"{where}.version", hint=error.hint
        ) from None
    root = home.models / source.model / str(source.version)
    return ModelSource(
        folder=root / VERSION_FOLDER,
        root=root,
        checkpoint=None,
        facts=_facts(
            root / VERSION_FOLDER,
            needed=MODEL,
            what=f"version {source.version} of {source.model!r}",
            field=f"{where}.version",
        ),
        lineage={"model": source.model, "version": source.version, "job_id": record.job_id},
    )


def _facts(folder: Path, *, needed: str, what: str, field: str) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FACTS).read_text())
        if not isinstance(facts, dict) or not (folder / needed).is_file():
            raise FileNotFoundError
    except (OSError, ValueError):
        raise InvalidInput(
            f"The files of {what} that this needs ({FACTS}, {needed}) are not there.",
            code="source_files_missing",
            field=field,
            hint="Its run's folder was removed, or was written by a Modelyard that did not keep them: train again, or "
            "name a version that was published from it.",
        ) from None
    return facts
