"""What all kinds of data have in common: splits, order, how rows reach the steps, augmentation, image decoding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from shared.specs import keras_names
from shared.specs.base import Spec
from shared.specs.fit import KerasObject, Named, known

Interpolation = Literal[
    "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"
]
Side = Annotated[int, Field(ge=1, le=8192)]


class PipelineSpec(Spec):
    """How rows are read while training, when they are not kept in memory (``dataset.cache``)."""

    parallel_reads: int | None = Field(
        2, ge=1, le=256, description="Batches read at once by tf.data; null: as many as tf.data sees fit."
    )
    prefetch: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Batches made ready ahead of the step; null: tf.data decides; 0: none.",
    )


class DatasetOptions(Spec):
    """What all kinds of data have in common."""

    validation_split: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Fraction of the training rows held out for validation, chosen by the seed. 0 with no "
        "validation data of its own: the test split, where there is one, is the validation data.",
    )
    stratify: bool = Field(
        False, description="Rows are held out class by class, so that all parts have the classes' shares."
    )
    cache: bool | Literal["auto"] = Field(
        "auto",
        description="Keep the training rows in memory and gather batches inside the compiled step (true), or read "
        "them from disk batch by batch through tf.data (false). auto: in memory while they take less than half of "
        "what is free.",
    )
    pipeline: PipelineSpec = PipelineSpec()
    shuffle: bool = Field(
        True, description="Visit the training rows in a new order, drawn from the seed, each epoch."
    )
    augment: list[Named] = Field(
        [],
        max_length=20,
        description="Keras' augmentation layers in front of the model, at work in training only: "
        '{"name": "RandomFlip", "params": {"mode": "horizontal"}}, ...',
    )

    @field_validator("augment")
    @classmethod
    def _known_layers(cls, value: list[KerasObject]) -> list[KerasObject]:
        for item in value:
            known(item, keras_names.AUGMENTATION, "augmentation layer")
        return value


class ImageOptions(Spec):
    """How an encoded image becomes pixels, as ``keras.utils.image_dataset_from_directory`` has it."""

    image_size: tuple[Side, Side] | None = Field(
        None, description="[height, width] that all images are resized to."
    )
    color_mode: Literal["grayscale", "rgb", "rgba"] | None = Field(
        None, description="Channels: 1, 3 or 4. Null: as the data have it, or rgb."
    )
    interpolation: Interpolation = "bilinear"
    crop_to_aspect_ratio: bool = Field(
        False, description="Cut the middle out of an image of another aspect ratio, rather than distort it."
    )
