"""What to train on: a tensorflow_datasets name, an npz file or a csv file.

A file is named by an uploaded dataset's id (``ds_...``) or by a path below a folder that the operator allows.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from shared.specs.base import Spec, by_key


class DatasetOptions(Spec):
    """What all kinds of data have in common."""

    validation_split: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Fraction of the training rows held out for validation, chosen by the seed. 0 with no "
        "validation data of its own: the test split, where there is one, is the validation data.",
    )
    cache: bool = Field(
        True,
        description="Keep the training rows in memory. False: read them from disk batch by batch, by tf.data.",
    )
    shuffle: bool = Field(
        True, description="Visit the training rows in a new order, drawn from the seed, each epoch."
    )


class TfdsDataset(DatasetOptions):
    """A dataset of tensorflow_datasets, downloaded on first use."""

    tfds: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,80}(/[A-Za-z0-9_.-]{1,80})?(:\d+\.\d+\.\d+)?$",
        description="name, name/config or name:version, as tfds.builder takes it.",
        examples=["fashion_mnist"],
    )
    train_split: str = Field("train", min_length=1, max_length=200)
    test_split: str | None = Field("test", max_length=200, description="Split for evaluation; null for none.")


class NpzDataset(DatasetOptions):
    """A NumPy ``.npz`` archive with arrays x_train, y_train and optionally x_test, y_test (or x and y)."""

    npz: str = Field(min_length=1, max_length=4096, description="Dataset id, or a path the operator allows.")
    x: str = Field("x_train", description="Training inputs, shape [rows, ...].")
    y: str = Field("y_train", description="Training targets, shape [rows] or [rows, ...].")
    x_test: str | None = Field("x_test", description="Evaluation inputs; missing in the file is fine.")
    y_test: str | None = "y_test"


class CsvDataset(DatasetOptions):
    """A CSV file with a header row, numeric feature columns and one label column."""

    csv: str = Field(min_length=1, max_length=4096, description="Dataset id, or a path the operator allows.")
    label: str = Field(min_length=1, description="Name of the target column; text is taken as class names.")
    features: list[str] | None = Field(
        None, min_length=1, description="Feature columns; null: all but the label."
    )
    test_split: float = Field(
        0.2, ge=0.0, lt=1.0, description="Fraction of rows kept for evaluation, by the seed."
    )
    delimiter: Literal[",", ";", "\t", "|"] = ","
    task: Literal["auto", "classification", "regression"] = Field(
        "auto", description="auto: text or few whole numbers in the label column are classes."
    )

    @field_validator("features")
    @classmethod
    def _no_twins(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a column is named twice")
        return value


DatasetSpec = Annotated[
    Annotated[TfdsDataset, Tag("tfds")]
    | Annotated[NpzDataset, Tag("npz")]
    | Annotated[CsvDataset, Tag("csv")],
    Discriminator(
        by_key("tfds", "npz", "csv"),
        custom_error_type="dataset_kind",
        custom_error_message="name exactly one of 'tfds', 'npz' or 'csv'",
    ),
]


def file_reference(spec: DatasetSpec) -> tuple[str, str] | None:
    """(field, id or path) of a dataset that lies in a file; None for tfds."""
    if isinstance(spec, NpzDataset):
        return "npz", spec.npz
    if isinstance(spec, CsvDataset):
        return "csv", spec.csv
    return None
