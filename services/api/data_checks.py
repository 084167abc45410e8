"""Does the data that a job names exist, may it be read, and does it fit the rest of the job? Asked at submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.api.column_checks import check_columns
from services.api.record_checks import check_features
from shared.data_files import csv_header, inspect_npz
from shared.data_files.keras_files import MODEL_KINDS
from shared.data_paths import allowed_file, allowed_file_or_folder, allowed_files
from shared.errors import InvalidInput, NotFound
from shared.names import ID_PATTERN
from shared.settings import Settings
from shared.specs import CsvDataset, ImagesDataset, NpzDataset, TfrecordDataset, TrainJob, UserDataset
from shared.specs.dataset import file_reference, tfrecord_references
from shared.store import Store

SHOWN_FILES = 20


@dataclass(slots=True)
class DataFacts:
    """What is known of a job's data before it runs."""

    described: dict[str, Any]
    rows: int | None = None
    warnings: list[str] = field(default_factory=list)


class DataChecks:
    """Thread-safe."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._allowed = tuple(path.expanduser() for path in settings.allowed_paths)

    def check(self, spec: TrainJob) -> DataFacts:
        """Raises ``InvalidInput`` with the field to mend, or returns what is known."""
        if isinstance(spec.dataset, TfrecordDataset):
            facts = self._records(spec.dataset)
            _check_rows(spec, facts.rows, "dataset.tfrecord")
            return facts
        reference = file_reference(spec.dataset)
        if reference is None:
            return DataFacts(
                spec.dataset.model_dump(mode="json"),
                warnings=["The dataset is made by code of your own, which is first run by the job."]
                if isinstance(spec.dataset, UserDataset)
                else ["The dataset is downloaded when the job first needs it."],
            )
        kind, named = reference
        where = f"dataset.{kind}"
        if ID_PATTERN.fullmatch(named):
            facts, info = self._uploaded(kind, named, where)
        else:
            facts, info = self._on_disk(spec.dataset, kind, named, where)
        if isinstance(spec.dataset, CsvDataset):
            check_columns(spec.dataset, info)
            facts.rows = info.get("rows")
        elif isinstance(spec.dataset, NpzDataset):
            facts.rows = _check_arrays(spec.dataset, info)
        elif isinstance(spec.dataset, ImagesDataset):
            facts.rows = info.get("images")
        _check_rows(spec, facts.rows, where)
        facts.described["rows"] = facts.rows
        return facts

    def _records(self, spec: TfrecordDataset) -> DataFacts:
        """Every file that a TFRecord job names."""
        named: list[dict[str, Any]] = []
        rows: int | None = 0
        for field_, names in tfrecord_references(spec).items():
            where = f"dataset.{field_}"
            for name in names:
                if ID_PATTERN.fullmatch(name):
                    facts, info = self._uploaded("tfrecord", name, where)
                    check_features(spec, info)
                    named.append(facts.described)
                    count: int | None = info["records"]
                else:
                    files = allowed_files(name, self._allowed, field=where)
                    named += [
                        {"path": str(path), "size_bytes": path.stat().st_size} for path in files[:SHOWN_FILES]
                    ]
                    count = None
                if field_ == "tfrecord":
                    rows = None if rows is None or count is None else rows + count
        return DataFacts({"kind": "tfrecord", "files": named[:SHOWN_FILES], "rows": rows}, rows)

    def _uploaded(self, kind: str, dataset_id: str, where: str) -> tuple[DataFacts, Mapping[str, Any]]:
        try:
            found = self._store.datasets.get(dataset_id)
        except NotFound as error:
            raise InvalidInput(error.message, code=error.code, field=where, hint=error.hint) from None
        if found.kind != kind:
            raise InvalidInput(
                f"The dataset {dataset_id} ({found.name!r}) is {found.kind}, not {kind}.",
                code="dataset_kind",
                field=where,
                hint="It is a model: name it in model.from_file."
                if found.kind in MODEL_KINDS
                else f'Name it as {{"{found.kind}": "{dataset_id}"}}.',
            )
        described = {"kind": kind, "id": found.id, "name": found.name, "sha256": found.sha256}
        return DataFacts({**described, "size_bytes": found.size_bytes}), found.info

    def _on_disk(
        self, dataset: Any, kind: str, named: str, where: str
    ) -> tuple[DataFacts, Mapping[str, Any]]:
        try:
            if kind == "images":
                folder = allowed_file_or_folder(named, self._allowed, field=where)
                return DataFacts({"kind": kind, "path": str(folder)}), {}
            path = allowed_file(named, self._allowed, field=where)
            size = path.stat().st_size
            info = csv_header(path, dataset.delimiter) if kind == "csv" else inspect_npz(path)
        except (OSError, ValueError, RuntimeError) as error:  # no permission, too long, a loop of links
            raise InvalidInput(
                f"{named[:200]!r} can't be read: {error}.", code="file_unreadable", field=where
            ) from None
        except InvalidInput as error:
            raise InvalidInput(error.message, code=error.code, field=where, hint=error.hint) from None
        return DataFacts({"kind": kind, "path": str(path), "size_bytes": size}), info


def _check_arrays(spec: NpzDataset, info: Mapping[str, Any]) -> int | None:
    """Rows of the training arrays."""
    arrays = {array["name"]: array for array in info["arrays"]}
    named = {"x": spec.x, "y": spec.y}
    if "x_train" not in arrays and "x" in arrays:
        # the plain names stand in for the default ones
        named = {key: key if name == f"{key}_train" else name for key, name in named.items()}
    for key, name in named.items():
        if name not in arrays:
            raise InvalidInput(
                f"The file has no array {name[:80]!r}.",
                code="array_not_found",
                field=f"dataset.{key}",
                hint=f"Its arrays are: {', '.join(list(arrays)[:20]) or 'none'}.",
            )
    x, y = arrays[named["x"]]["shape"], arrays[named["y"]]["shape"]
    if not x or not y:
        key = "y" if x else "x"
        raise InvalidInput(
            f"The array {named[key]!r} is a single value; an array has one entry for each row.",
            code="rows_differ",
            field=f"dataset.{key}",
        )
    if x[0] != y[0]:
        raise InvalidInput(
            f"{named['x']!r} has shape {x} and {named['y']!r} {y}: the first numbers, the rows, must be the same.",
            code="rows_differ",
            field="dataset.y",
        )
    return int(x[0])


def _check_rows(spec: TrainJob, rows: int | None, where: str) -> None:
    if rows is None:
        return
    if rows == 0:
        raise InvalidInput("The dataset has no rows.", code="dataset_empty", field=where)
    if spec.fit.batch_size > rows:
        raise InvalidInput(
            f"The batch size {spec.fit.batch_size} is above the {rows} rows of the dataset.",
            code="batch_too_large",
            field="fit.batch_size",
            hint=f"Set fit.batch_size to at most {rows}.",
        )
