"""From a dataset spec to ``TrainingData``, with the held-out rows taken apart."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.worker.training.data import checks, csv, npz, placement, splits, table
from services.worker.training.data.record import Rows, TrainingData
from services.worker.training.failures import TrainingFailed, data_invalid
from services.worker.training.user_code import Code
from shared.specs import (
    CsvDataset,
    DatasetSpec,
    FitSpec,
    ImagesDataset,
    NpzDataset,
    TfdsDataset,
    TfrecordDataset,
    UserDataset,
)

if TYPE_CHECKING:
    from services.worker.protocol import TrainingRequest
    from services.worker.training.emitter import Emitter

_VALIDATION, _TEST = 1, 2
SHOWN_COLUMNS = 100
MADE_DATA = "made_data"  # in the run's folder: what the user's code made


def load(
    spec: DatasetSpec, fit: FitSpec, request: TrainingRequest, emit: Emitter, code: Code | None = None
) -> TrainingData:
    """All rows, checked and split.

    Raises:
        TrainingFailed: data_invalid, data_unreachable, disk_full.
    """
    loss = fit.loss.name if fit.loss is not None else None
    if isinstance(spec, TfdsDataset):
        from services.worker.training.data import tfds

        data = tfds.load(spec, request.tfds_dir, request.cache_dir, emit=emit, loss=loss)
    elif isinstance(spec, ImagesDataset):
        from services.worker.training.data import images

        data = images.load(spec, _data_file(request), request.cache_dir, emit=emit)
    elif isinstance(spec, TfrecordDataset):
        from services.worker.training.data import tfrecord

        data = tfrecord.load(spec, request.data_files, request.cache_dir, emit=emit, loss=loss)
    elif isinstance(spec, UserDataset):
        from services.worker.training.data import user_dataset

        data = user_dataset.load(spec, code or Code(()), request.files_dir / MADE_DATA, emit=emit, loss=loss)
    else:
        data = _from_file(spec, request, loss)
    data = table.filled(_split(placement.placed(data, spec), spec, fit.seed))
    if data.table is not None:
        data = replace(
            data, notes={**data.notes, "columns": [column.facts() for column in data.table[:SHOWN_COLUMNS]]}
        )
    data = replace(data, augment=tuple(spec.augment))
    checks.batch_fits(data, fit.batch_size)
    return data


def discard(request: TrainingRequest) -> None:
    """Delete what was kept for this run alone, once it has no more use for it."""
    shutil.rmtree(request.files_dir / MADE_DATA, ignore_errors=True)


def _from_file(spec: NpzDataset | CsvDataset, request: TrainingRequest, loss: str | None) -> TrainingData:
    path = _data_file(request)
    try:
        digest = request.data_sha256 or file_sha256(path)
    except OSError as error:
        raise data_invalid(f"the data file can't be read: {error.strerror or error}") from error
    fingerprint = f"sha256:{digest.removeprefix('sha256:')}"
    if isinstance(spec, NpzDataset):
        return npz.load(spec, path, request.cache_dir, fingerprint=fingerprint, loss=loss)
    return csv.load(spec, path, request.cache_dir, fingerprint=fingerprint, loss=loss)


def _data_file(request: TrainingRequest) -> Path:
    if request.data_file is None:
        raise TrainingFailed("request_invalid", "the request names no data file")
    return request.data_file


def _split(data: TrainingData, spec: DatasetSpec, seed: int) -> TrainingData:
    train, test = data.train, data.test
    numbers = Rows(np.arange(len(train)), train.y)  # held out alongside, they tell which weights stay
    if spec.stratify and data.task != "classification":
        raise data_invalid(
            "dataset.stratify is for classes, but the targets are numbers", "Leave dataset.stratify out."
        )
    if test is None and not isinstance(spec, TfdsDataset):
        hold_test = partial(
            splits.hold_out,
            fraction=spec.test_split,
            seed=seed,
            purpose=_TEST,
            field="dataset.test_split",
            stratify=spec.stratify,
        )
        (train, test), (numbers, _) = hold_test(train), hold_test(numbers)
    hold_validation = partial(
        splits.hold_out,
        fraction=spec.validation_split,
        seed=seed,
        purpose=_VALIDATION,
        field="dataset.validation_split",
        stratify=spec.stratify,
    )
    (train, validation), (numbers, _) = hold_validation(train), hold_validation(numbers)
    _no_unseen_only(data, train)
    for known in (data.validation, test):
        validation = known if validation is None else validation
    weights = data.weights[np.asarray(numbers.x)] if data.weights is not None else None
    return replace(data, train=train, test=test, validation=validation, weights=weights)


def _no_unseen_only(data: TrainingData, train: Rows) -> None:
    if data.task == "classification" and len(np.unique(train.y)) < 2:
        raise data_invalid(
            f"all {len(train)} training rows have the same label {int(train.y[0])}: there is nothing to tell apart"
        )


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
