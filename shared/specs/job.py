"""The whole request: a union on ``kind``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.names import NAME_PATTERN
from shared.specs.base import Spec
from shared.specs.dataset import DatasetSpec
from shared.specs.devices import DeviceSpec
from shared.specs.export import ExportFields
from shared.specs.fit import CheckpointSpec, FitSpec, TensorBoardSpec
from shared.specs.model import ModelSpec
from shared.specs.strategy import DefaultStrategy, StrategySpec


def _not_a_number(value: str) -> str:
    if value.isdigit():
        raise ValueError("can't be digits alone: that reads as a version")
    return value


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN), AfterValidator(_not_a_number)]
LabelText = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9_./-]+$")]


class PublishSpec(Spec):
    """Where a finished model goes: the next version of ``model``."""

    model: Name = Field(description="Name the model is served under.")
    label: Name | None = Field(None, description="Label moved to the new version, such as 'stable'.")


class RetrySpec(Spec):
    """What happens when a worker is lost."""

    max_attempts: int = Field(3, ge=1, le=100)


class JobFields(Spec):
    """What a person says about any job."""

    name: Annotated[str, StringConstraints(max_length=200)] | None = Field(None, description="For people.")
    labels: dict[LabelText, Annotated[str, StringConstraints(max_length=63)]] = Field(
        {}, max_length=16, description="Your own key-value pairs, to find the job by."
    )


class TrainJob(JobFields):
    """Train a model, evaluate it, and publish it if asked."""

    kind: Literal["train"] = "train"
    model: ModelSpec
    dataset: DatasetSpec
    fit: FitSpec = FitSpec()
    strategy: StrategySpec = DefaultStrategy()
    devices: DeviceSpec = DeviceSpec()
    tensorboard: TensorBoardSpec = TensorBoardSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    publish: PublishSpec | None = None
    retry: RetrySpec = RetrySpec()


class ExportJob(ExportFields, JobFields):
    """Write a trained model in one or several formats, and publish it if asked."""

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["export"] = "export"
    publish: PublishSpec | None = None
    retry: RetrySpec = RetrySpec()

    @model_validator(mode="after")
    def _published_as_saved_model(self) -> ExportJob:
        if self.publish is not None and not any(item.format == "saved_model" for item in self.formats):
            raise ValueError("to publish, 'saved_model' must be among the formats: it is what is served")
        return self


KINDS = ("train", "export")
_WHICH_KINDS = f"'kind' is one of: {', '.join(KINDS)}"


def _kind(value: Any) -> str | None:
    """``kind``, which a train job may leave out; None for one that is not known."""
    kind = value.get("kind", "train") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in KINDS else None


JobSpec = Annotated[
    Annotated[TrainJob, Tag("train")] | Annotated[ExportJob, Tag("export")],
    Discriminator(
        _kind,
        custom_error_type="job_kind",
        custom_error_message=_WHICH_KINDS,
    ),
]
JOB: TypeAdapter[TrainJob | ExportJob] = TypeAdapter(JobSpec)


def parse_job(data: Any) -> TrainJob | ExportJob:
    """Check plain JSON data and return the spec.

    Raises:
        pydantic.ValidationError: with the path of each offending field.
    """
    if isinstance(data, dict) and _kind(data) is None:
        # said here, for pydantic would lay it at the door of the whole document
        wrong = PydanticCustomError("job_kind", "{words}", {"words": _WHICH_KINDS})
        raise ValidationError.from_exception_data(
            "job", [InitErrorDetails(type=wrong, loc=("kind",), input=data.get("kind"))]
        )
    return JOB.validate_python(data)
