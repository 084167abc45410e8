"""What to write, of which trained model, in which formats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag, field_validator

from shared.names import NAME_PATTERN
from shared.specs.base import Spec, by_key

JOB_PATTERN = r"^job_[A-Za-z0-9]{1,36}$"
Checkpoint = Annotated[
    str,
    StringConstraints(
        max_length=200, pattern=r"^(best|last|[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*)$"
    ),
]
# Each signature of an exported SavedModel; ``None`` in a spec asks for all that make sense for the model.
SignatureName = Literal["serving_default", "pixels", "image_bytes", "class_names", "classify", "regress"]


class FromJob(Spec):
    """The model of a train job: as training left it, or one of its checkpoints."""

    job: str = Field(pattern=JOB_PATTERN, examples=["job_06cf8m2k1x3q9r7t5vnw0a"])
    checkpoint: Checkpoint | None = Field(
        None,
        description="Null: the model at the end of training. 'best', 'last', or a file of the run, as "
        "GET /jobs/{id}/artifacts lists it (checkpoints/*.npz, *.keras, *.weights.h5).",
    )


class FromVersion(Spec):
    """A published version."""

    model: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1, le=2**62)


Source = Annotated[
    Annotated[FromJob, Tag("job")] | Annotated[FromVersion, Tag("version")],
    Discriminator(
        by_key("job", "version"),
        custom_error_type="source_kind",
        custom_error_message="name a job ('job', optionally with 'checkpoint') or a version ('model' and 'version')",
    ),
]


class SavedModelFormat(Spec):
    """A SavedModel folder, as TensorFlow Serving loads it; its signatures are the job's ``signatures``."""

    format: Literal["saved_model"] = "saved_model"


class KerasFormat(Spec):
    """Keras' own ``.keras`` file, with the optimizer's state when the source has it."""

    format: Literal["keras"] = "keras"


class H5Format(Spec):
    """One HDF5 file with architecture and weights, for older readers."""

    format: Literal["h5"] = "h5"


class WeightsFormat(Spec):
    """The weights alone, as ``.weights.h5``, with the architecture as JSON beside them."""

    format: Literal["weights"] = "weights"


class TfliteFormat(Spec):
    """LiteRT (TensorFlow Lite) with the numeric signatures."""

    format: Literal["tflite"] = "tflite"
    quantization: Literal["none", "float16", "dynamic_range", "int8"] = Field(
        "none",
        description="float16: weights in half precision. dynamic_range: weights in 8 bits. int8: weights and "
        "activations in 8 bits, with ranges taken from the run's golden rows.",
    )
    max_difference: float | None = Field(
        None,
        gt=0,
        description="Largest difference of an output from the original's that is accepted, relative to the largest "
        "output. Null: 1e-5 without quantization, 0.01 for float16, 0.1 for dynamic_range and 0.25 for int8.",
    )


class OnnxFormat(Spec):
    """ONNX, for onnxruntime and its like."""

    format: Literal["onnx"] = "onnx"
    opset: int | None = Field(None, ge=9, le=23, description="Null: the converter's default.")


def _from_name(value: Any) -> Any:
    return {"format": value} if isinstance(value, str) else value


Format = Annotated[
    SavedModelFormat | KerasFormat | H5Format | WeightsFormat | TfliteFormat | OnnxFormat,
    Field(discriminator="format"),
]
NamedFormat = Annotated[Format, BeforeValidator(_from_name)]


def no_twins(formats: list[Format]) -> list[Format]:
    """Refuse a format that is asked for twice in the same form, which would be written to the same file."""
    names = [file_stem(item) for item in formats]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is named twice")
    return formats


def file_stem(item: Format) -> str:
    """What tells files of one export apart: the format, with its quantization."""
    if isinstance(item, TfliteFormat) and item.quantization != "none":
        return f"{item.format}_{item.quantization}"
    return item.format


class ExportFields(Spec):
    """What an export job says beyond what all jobs do."""

    source: Source = Field(alias="from", description="The model to write.")
    formats: Annotated[list[NamedFormat], Field(min_length=1, max_length=12)] = Field(
        [SavedModelFormat()],
        description="saved_model, keras, h5, weights, tflite, onnx; by name, or as an object with options.",
    )
    signatures: list[SignatureName] | None = Field(
        None,
        min_length=1,
        description="Of the SavedModel. Null: all that make sense. serving_default: rows as float32; pixels: uint8 "
        "images; image_bytes: PNG or JPEG files; class_names: rows in, name and probability of the likeliest class "
        "out; classify and regress: tf.Example in, for TensorFlow Serving's methods of these names.",
    )

    @field_validator("formats")
    @classmethod
    def _each_once(cls, value: list[Format]) -> list[Format]:
        return no_twins(value)

    @field_validator("signatures")
    @classmethod
    def _each_signature_once(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a signature is named twice")
        return value
