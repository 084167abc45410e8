"""Finds the file a job trains on, and checks again what the API checked: settings differ between machines."""

from __future__ import annotations

import hashlib
from pathlib import Path

from shared.data_paths import allowed_file
from shared.errors import InvalidInput
from shared.names import ID_PATTERN
from shared.settings import Settings
from shared.specs import TrainJob
from shared.specs.dataset import file_reference
from shared.store import Store


def resolve_data_file(spec: TrainJob, store: Store, settings: Settings) -> tuple[Path | None, str | None]:
    """(file, SHA-256) of a job's csv or npz; (None, None) for tfds.

    Raises:
        NotFound: no such uploaded dataset.
        InvalidInput: the path is not below an allowed folder, or there is no such file.
    """
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
