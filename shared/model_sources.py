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

from shared.data_paths import allowed_file_or_folder
from shared.errors import InvalidInput, NotFound
from shared.home import Home
from shared.jobs import Job, JobState
from shared.names import ID_PATTERN
from shared.settings import Settings
from shared.specs import ExportJob, FromJob, FromJobModel, FromVersion, FromVersionModel, JobSpec, TuneJob
from shared.store import Store

FILE_SUFFIXES = (".keras", ".h5", ".hdf5")
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
        code: builders of the user's own whose classes the model has, as their job recorded them.
    """

    folder: Path
    root: Path
    checkpoint: str | None
    facts: dict[str, Any]
    lineage: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)


def named_by(spec: JobSpec) -> tuple[FromJob | FromVersion, str] | None:
    """(source, field) of a job that starts from a job or version; None for one that does not."""
    if isinstance(spec, ExportJob):
        return spec.source, "from"
    if isinstance(spec, TuneJob):
        found = named_by(spec.base)
        return found and (found[0], f"base.{found[1]}")
    if isinstance(spec.model, FromVersionModel):
        return spec.model.from_version, "model.from_version"
    if isinstance(spec.model, FromJobModel):
        return spec.model.from_job, "model.from_job"
    return None


def find_file(name: str, store: Store, settings: Settings) -> Path:
    """The model file or SavedModel folder that ``from_file`` names.

    Raises:
        InvalidInput: it is not there, not allowed, of no known kind, or a SavedModel that nobody vouches for.
    """
    field = "model.from_file"
    if ID_PATTERN.fullmatch(name):
        return _uploaded(name, store, settings.paths, field)
    path = allowed_file_or_folder(name, settings.allowed_paths, field=field)
    if path.is_file():
        if path.name.endswith(FILE_SUFFIXES):
            return path
        raise InvalidInput(
            f"{path.name!r} is no model file that can be read.",
            code="model_file_kind",
            field=field,
            hint="Name a .keras, .h5 or .weights.h5 file, or a SavedModel's folder.",
        )
    if not (path / "saved_model.pb").is_file():
        raise InvalidInput(
            f"The folder {path.name!r} holds no SavedModel.", code="model_file_kind", field=field
        )
    if not any(path.is_relative_to(folder.expanduser().resolve()) for folder in settings.trusted_model_paths):
        raise InvalidInput(
            f"The SavedModel {path.name!r} is not trusted: a SavedModel runs operations of its own when it is loaded, "
            "and can write files.",
            code="saved_model_not_trusted",
            field=field,
            hint="Use the .keras file of the same model, or have the operator trust its folder "
            "(MODELYARD_TRUSTED_MODEL_PATHS). Versions published here carry a .keras file: name them by from_version.",
        )
    return path


def _uploaded(name: str, store: Store, home: Home, field: str) -> Path:
    try:
        dataset = store.datasets.get(name)
    except NotFound as error:
        raise InvalidInput(error.message, code=error.code, field=field, hint=error.hint) from None
    path = home.datasets / dataset.path
    if dataset.kind not in ("keras", "h5", "weights"):
        raise InvalidInput(
            f"The upload {name} ({dataset.name!r}) is {dataset.kind}, not a Keras model.",
            code="model_file_kind",
            field=field,
            hint="Upload a .keras, .h5 or .weights.h5 file.",
        )
    if not path.is_file():
        raise InvalidInput(
            f"The file of the upload {name} is gone from this disk.",
            code="data_missing",
            field=field,
            hint="All workers must share the home folder with the API.",
        )
    return path


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
        code=job.run.get("code") or {},
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
        code=_code_of(record.job_id, store),
    )


def _code_of(job_id: str | None, store: Store) -> dict[str, Any]:
    try:
        return store.jobs.get(job_id).run.get("code") or {} if job_id else {}
    except NotFound:
        return {}


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
