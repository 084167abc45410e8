"""What to train on: a tensorflow_datasets name, an npz or csv file, a folder of images, TFRecord files, or what code of
the user's own makes.

A file is named by an uploaded dataset's id (``ds_...``) or by a path below a folder that the operator allows.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from shared.specs.base import Spec, by_key
from shared.specs.dataset_options import DatasetOptions, ImageOptions, Side
from shared.specs.dataset_user import UserDataset

TFDS_PATTERN = r"^[a-z][a-z0-9_]{0,80}(/[A-Za-z0-9_.+-]{1,80})?(:\d+\.\d+\.\d+)?$"
FileName = Annotated[str, Field(min_length=1, max_length=4096)]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]


class TfdsDataset(DatasetOptions, ImageOptions):
    """A dataset of tensorflow_datasets, downloaded on first use."""

    tfds: str = Field(
        pattern=TFDS_PATTERN,
        description="name, name/config, name:version or name/config:version, as tfds.builder takes it.",
        examples=["fashion_mnist"],
    )
    train_split: str = Field("train", min_length=1, max_length=200)
    test_split: str | None = Field("test", max_length=200, description="Split for evaluation; null for none.")
    x: str | None = Field(
        None, min_length=1, max_length=200, description="Feature to learn from; null: the supervised one."
    )
    y: str | None = Field(
        None, min_length=1, max_length=200, description="Feature to predict; null: the supervised one."
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> TfdsDataset:
        if (self.x is None) != (self.y is None):
            raise ValueError("name both x and y, or neither")
        return self


class NpzDataset(DatasetOptions):
    """A NumPy ``.npz`` archive with arrays x_train, y_train and optionally x_test, y_test (or x and y)."""

    npz: FileName = Field(description="Dataset id, or a path the operator allows.")
    x: str = Field("x_train", description="Training inputs, shape [rows, ...].")
    y: str = Field("y_train", description="Training targets, shape [rows] or [rows, ...].")
    x_test: str | None = Field("x_test", description="Evaluation inputs; missing in the file is fine.")
    y_test: str | None = "y_test"
    test_split: float = Field(
        0.0, ge=0.0, lt=1.0, description="Without test arrays: fraction of rows kept for evaluation."
    )


class ColumnSpec(Spec):
    """How one csv column is read and put before the model."""

    type: Literal["auto", "numeric", "boolean", "categorical"] = Field(
        "auto", description="auto: numbers, true/false, or else text, which is categorical."
    )
    missing: Literal["refuse", "impute"] | None = Field(None, description="Null: as dataset.missing says.")
    encoding: Literal["one_hot", "embedding"] = Field(
        "one_hot", description="What a category becomes inside the model."
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Length of an embedding; null: the fourth root of the categories, times 4.",
    )
    max_values: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Most frequent values that are categories; others share one slot.",
    )


class CsvDataset(DatasetOptions):
    """A CSV file with a header row, feature columns and one label column."""

    csv: FileName = Field(description="Dataset id, or a path the operator allows.")
    label: str = Field(min_length=1, description="Name of the target column; text is taken as class names.")
    features: list[str] | None = Field(
        None, min_length=1, description="Feature columns; null: all but the label."
    )
    columns: dict[ColumnName, ColumnSpec] = Field(
        {}, max_length=20_000, description="Columns that are not to be read as they look."
    )
    missing: Literal["refuse", "impute"] = Field(
        "refuse",
        description="Empty feature cells: an error, or (impute) the training rows' mean in numeric columns and a "
        "category of its own in others.",
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

    @model_validator(mode="after")
    def _columns_are_features(self) -> CsvDataset:
        for name in self.columns:
            if name == self.label:
                raise ValueError(f"columns describes the label column {name!r}; it is for features")
            if self.features is not None and name not in self.features:
                raise ValueError(f"columns describes {name!r}, which is not among the features")
        return self

    def column(self, name: str) -> ColumnSpec:
        """What was asked for one column, with the dataset's own default for missing values."""
        found = self.columns.get(name, ColumnSpec())
        return found.model_copy(update={"missing": found.missing or self.missing})


class ImagesDataset(DatasetOptions, ImageOptions):
    """A folder with a sub-folder of images for each class, or a zip or tar archive of one."""

    images: FileName = Field(
        description="Dataset id, or a path of a folder or archive that the operator allows."
    )
    image_size: tuple[Side, Side] | None = Field((256, 256), description="[height, width] of all images.")
    color_mode: Literal["grayscale", "rgb", "rgba"] | None = "rgb"
    labels: Literal["inferred"] = Field("inferred", description="A class is a sub-folder.")
    class_names: list[Annotated[str, Field(min_length=1, max_length=255)]] | None = Field(
        None,
        min_length=2,
        max_length=100_000,
        description="The sub-folders to use, in the order of the class numbers; null: all, by name.",
    )
    folder: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Where below the top the training classes lie: 'train'.",
    )
    test_folder: str | None = Field(
        None, min_length=1, max_length=1000, description="The same for the evaluation images: 'test'."
    )
    test_split: float = Field(
        0.2, ge=0.0, lt=1.0, description="Without test_folder: fraction of images kept for evaluation."
    )
    on_broken: Literal["fail", "skip"] = Field(
        "fail", description="An image that can't be decoded ends the job, or is left out and counted."
    )
    follow_links: Literal[False] = False

    @field_validator("image_size", "color_mode")
    @classmethod
    def _needed(cls, value: object) -> object:
        if value is None:
            raise ValueError("can't be null: images of a folder differ")
        return value

    @field_validator("class_names")
    @classmethod
    def _no_twins(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a class is named twice")
        return value

    @field_validator("folder", "test_folder")
    @classmethod
    def _inside(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith("/") or ".." in value.split("/")):
            raise ValueError("is a place below the images' top folder")
        return value


class FeatureSpec(Spec):
    """One feature of a TFRecord's examples, as ``tf.io.FixedLenFeature`` has it."""

    dtype: Literal["string", "int64", "float32"]
    shape: list[Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        [],
        max_length=6,
        description="Of numbers; of raw bytes, once decoded; of an image, [height, width, channels].",
    )
    decode: Literal["image", "raw"] | None = Field(
        None, description="What a string holds: an encoded image, or the bytes of an array."
    )
    raw_dtype: Literal["uint8", "int32", "int64", "float32", "float64"] = Field(
        "uint8", description="With decode: raw."
    )
    default: float | None = Field(None, description="Of a number that an example may lack.")

    @model_validator(mode="after")
    def _decode_strings_only(self) -> FeatureSpec:
        if self.decode is not None and self.dtype != "string":
            raise ValueError("decode is for features of dtype string")
        if self.decode == "raw" and not self.shape:
            raise ValueError("raw bytes need a shape")
        if self.decode == "image" and self.shape and (len(self.shape) != 3 or self.shape[2] not in {1, 3, 4}):
            raise ValueError("an image's shape is [height, width, channels] with 1, 3 or 4 channels")
        if self.default is not None and self.dtype == "string":
            raise ValueError("default is for numbers")
        return self


class TfrecordDataset(DatasetOptions, ImageOptions):
    """TFRecord files of ``tf.train.Example``, read as a feature spec says."""

    tfrecord: FileName | Annotated[list[FileName], Field(min_length=1, max_length=10_000)] = Field(
        description="Dataset id, path or glob ('/data/train-*.tfrecord'), or a list of them."
    )
    test: FileName | Annotated[list[FileName], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="The same for evaluation."
    )
    features: dict[ColumnName, FeatureSpec] = Field(min_length=1, max_length=1000)
    x: ColumnName | None = Field(None, description="Feature to learn from; null: the one beside y.")
    y: ColumnName = Field("label", description="Feature to predict.")
    class_names: list[Annotated[str, Field(min_length=1, max_length=255)]] | None = Field(
        None, min_length=2, max_length=100_000, description="Names of the classes, by number."
    )
    compression: Literal["auto", "GZIP", "ZLIB", "none"] = Field(
        "auto", description="auto: GZIP where a file begins as gzip files do."
    )
    test_split: float = Field(
        0.2, ge=0.0, lt=1.0, description="Without test: fraction of the examples kept for evaluation."
    )

    @model_validator(mode="after")
    def _known_features(self) -> TfrecordDataset:
        for name in filter(None, (self.x, self.y)):
            if name not in self.features:
                raise ValueError(f"there is no {name!r} in features")
        x = self.features[self.x_name()]
        if self.x_name() == self.y:
            raise ValueError("x and y are the same feature")
        if x.dtype == "string" and x.decode is None:
            raise ValueError(f"the feature {self.x_name()!r} is text; say with decode what its bytes are")
        if x.decode == "image" and not x.shape and self.image_size is None:
            raise ValueError("images need image_size, or a shape in features")
        if self.features[self.y].decode is not None:
            raise ValueError(f"the feature {self.y!r} is to be predicted; it can't be decoded")
        return self

    def x_name(self) -> str:
        """The feature to learn from.

        Raises:
            ValueError: it is not named, and there is not just one beside y.
        """
        if self.x is not None:
            return self.x
        others = [name for name in self.features if name != self.y]
        if len(others) != 1:
            raise ValueError("name the feature to learn from in x")
        return others[0]


DatasetSpec = Annotated[
    Annotated[TfdsDataset, Tag("tfds")]
    | Annotated[NpzDataset, Tag("npz")]
    | Annotated[CsvDataset, Tag("csv")]
    | Annotated[ImagesDataset, Tag("images")]
    | Annotated[TfrecordDataset, Tag("tfrecord")]
    | Annotated[UserDataset, Tag("builder")],
    Discriminator(
        by_key("tfds", "npz", "csv", "images", "tfrecord", "builder"),
        custom_error_type="dataset_kind",
        custom_error_message="name exactly one of 'tfds', 'npz', 'csv', 'images', 'tfrecord' or 'builder'",
    ),
]


def file_reference(spec: DatasetSpec) -> tuple[str, str] | None:
    """(field, id or path) of a dataset that lies in one file, archive or folder; None for tfds and TFRecords."""
    if isinstance(spec, NpzDataset):
        return "npz", spec.npz
    if isinstance(spec, CsvDataset):
        return "csv", spec.csv
    if isinstance(spec, ImagesDataset):
        return "images", spec.images
    return None


def tfrecord_references(spec: TfrecordDataset) -> dict[str, list[str]]:
    """Ids, paths and globs by the field that names them: ``tfrecord``, and ``test`` if there is one."""
    found = {"tfrecord": _listed(spec.tfrecord), "test": _listed(spec.test)}
    return {field: names for field, names in found.items() if names}


def _listed(names: str | list[str] | None) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else names
