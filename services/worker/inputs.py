"""Finds the files a job starts from, and checks again what the API checked: settings differ between machines."""

from __future__ import annotations

import hashlib
from pathlib import Path

from services.worker.protocol import SourceFiles
from shared import model_sources
from shared.data_paths import allowed_file, allowed_file_or_folder, allowed_files
from shared.errors import InvalidInput
from shared.names import ID_PATTERN
from shared.settings import Settings
from shared.specs import FromFileModel, JobSpec, TfrecordDataset, TrainJob
from shared.specs.dataset import file_reference, tfrecord_references
from shared.store import Store


def resolve_source(spec: JobSpec, store: Store, settings: Settings) -> SourceFiles | None:
    """The files of the model that a job starts from; None when it starts from nothing.

    Raises:
        InvalidInput: they are gone, or their job or version is.
    """
    named = model_sources.named_by(spec)
    if named is None:
        return None
    found = model_sources.find(named[0], store, settings.paths, where=named[1])
    return SourceFiles(
        folder=found.folder, root=found.root, checkpoint=found.checkpoint, lineage=found.lineage
    )


def resolve_model_file(spec: JobSpec, store: Store, settings: Settings) -> Path | None:
    """The file or SavedModel of the user's own that a job starts from; None when there is none.

    Raises:
        InvalidInput: as ``model_sources.find_file`` does.
    """
    if isinstance(spec, TrainJob) and isinstance(spec.model, FromFileModel):
        return model_sources.find_file(spec.model.from_file, store, settings)
    return None


def resolve_data_file(spec: JobSpec, store: Store, settings: Settings) -> tuple[Path | None, str | None]:
    """(file, SHA-256) of a job's csv or npz, (archive or folder, None) of its images; else (None, None).

    Raises:
        NotFound: no such uploaded dataset.
        InvalidInput: the path is not below an allowed folder, or there is no such file.
    """
    if not isinstance(spec, TrainJob):
        return None, None
    reference = file_reference(spec.dataset)
    if reference is None:
        return None, None
    kind, name = reference
    field = f"dataset.{kind}"
    if ID_PATTERN.fullmatch(name):
        return _uploaded(name, field, store, settings)
    if kind == "images":  # told apart by what is in them, once decoded
        return allowed_file_or_folder(name, settings.allowed_paths, field=field), None
    file = allowed_file(name, settings.allowed_paths, field=field)
    with file.open("rb") as stream:
        return file, hashlib.file_digest(stream, "sha256").hexdigest()


def resolve_data_files(spec: JobSpec, store: Store, settings: Settings) -> dict[str, list[Path]]:
    """TFRecord files by the field that names them; empty for other kinds of data.

    Raises:
        NotFound, InvalidInput: as ``resolve_data_file`` does.
    """
    if not isinstance(spec, TrainJob) or not isinstance(spec.dataset, TfrecordDataset):
        return {}
    found: dict[str, list[Path]] = {}
    for key, names in tfrecord_references(spec.dataset).items():
        field = f"dataset.{key}"
        found[key] = []
        for name in names:
            if ID_PATTERN.fullmatch(name):
                found[key].append(_uploaded(name, field, store, settings)[0])
            else:
                found[key] += allowed_files(name, settings.allowed_paths, field=field)
    return found


def _uploaded(name: str, field: str, store: Store, settings: Settings) -> tuple[Path, str]:
    dataset = store.datasets.get(name)
    file = settings.paths.datasets / dataset.path
    if not file.is_file():
        raise InvalidInput(
            f"The file of dataset {name} is gone from this worker's disk.",
            code="data_missing",
            field=field,
            hint="All workers must share the home folder with the API.",
        )
    return file, dataset.sha256
