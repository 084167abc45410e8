"""Finds the files a job starts from, and checks again what the API checked: settings differ between machines."""

from __future__ import annotations

import hashlib
from pathlib import Path

from services.worker.protocol import SourceFiles
from shared import model_sources
from shared.data_paths import allowed_file
from shared.errors import InvalidInput
from shared.names import ID_PATTERN
from shared.settings import Settings
from shared.specs import ExportJob, JobSpec
from shared.specs.dataset import file_reference
from shared.store import Store


def resolve_source(spec: JobSpec, store: Store, settings: Settings) -> SourceFiles | None:
    """The files of the model that a job starts from; None when it starts from nothing.

    Raises:
        InvalidInput: they are gone, or their job or version is.
    """
    if not isinstance(spec, ExportJob):
        return None
    found = model_sources.find(spec.source, store, settings.paths, where="from")
    return SourceFiles(
        folder=found.folder, root=found.root, checkpoint=found.checkpoint, lineage=found.lineage
    )


def resolve_data_file(spec: JobSpec, store: Store, settings: Settings) -> tuple[Path | None, str | None]:
    """(file, SHA-256) of a job's csv or npz; (None, None) for tfds, and for jobs that do not train.

    Raises:
        NotFound: no such uploaded dataset.
        InvalidInput: the path is not below an allowed folder, or there is no such file.
    """
    if isinstance(spec, ExportJob):
        return None, None
    reference = file_reference(spec.dataset)
    if reference is None:
        return None, None
    kind, name = reference
    field = f"dataset.{kind}"
    if ID_PATTERN.fullmatch(name):
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
    file = allowed_file(name, settings.allowed_paths, field=field)
    with file.open("rb") as stream:
        return file, hashlib.file_digest(stream, "sha256").hexdigest()
