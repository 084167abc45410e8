"""Jobs that train and jobs that export, and what all jobs have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from shared.failure_codes import CODES, RETRYABLE
from shared.names import NAME_PATTERN
from shared.specs.base import Spec
from shared.specs.checkpoint import CheckpointSpec
from shared.specs.dataset import DatasetSpec
from shared.specs.devices import DeviceSpec
from shared.specs.export import ExportFields
from shared.specs.fit import FitSpec
from shared.specs.model import ModelSpec, UserModel
from shared.specs.strategy import DefaultStrategy, ParameterServerStrategy, StrategySpec
from shared.specs.tensorboard import TensorBoardSpec


def _not_a_number(value: str) -> str:
    if value.isdigit():
        raise ValueError("can't be digits alone: that reads as a version")
    return value


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN), AfterValidator(_not_a_number)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]
LabelText = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9_./-]+$")]


class PublishSpec(Spec):
    """Where a finished model goes: the next version of ``model``."""

    model: Name = Field(description="Name the model is served under.")
    label: Name | None = Field(None, description="Label moved to the new version, such as 'stable'.")


class RetrySpec(Spec):
    """What happens after a failure that is not the job's own. Codes are in ``shared.failure_codes``."""

    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Attempts that may fail in all; 1: no retry. A stopped worker costs none.",
    )
    on: list[str] | None = Field(
        None,
        max_length=len(RETRYABLE),
        description="Codes after which to try again, to narrow the default, which is all that a retry can help.",
        examples=[["worker_lost", "trainer_killed"]],
    )

    @field_validator("on")
    @classmethod
    def _can_help(cls, value: list[str] | None) -> list[str] | None:
        for code in value or ():
            if code not in RETRYABLE:
                why = f"{code} is never retried" if code in CODES else f"there is no error code {code!r}"
                raise ValueError(f"{why}; take some of: {', '.join(sorted(RETRYABLE))}")
        return value


class DeadlineSpec(Spec):
    """How long a job may take; past it, it fails with the code ``deadline``."""

    queue_seconds: Seconds | None = Field(
        None, description="Waiting to be taken up, each time it is queued. Null: as long as it takes."
    )
    run_seconds: Seconds | None = Field(
        None,
        description="Running, all attempts together, until the model is exported. It then writes a checkpoint, "
        "from which `retry` goes on.",
    )


class JobFields(Spec):
    """What a person says about any job."""

    name: Annotated[str, StringConstraints(max_length=200)] | None = Field(None, description="For people.")
    labels: dict[LabelText, Annotated[str, StringConstraints(max_length=63)]] = Field(
        {}, max_length=16, description="Your own key-value pairs, to find the job by."
    )
    project: Name = Field(
        "default", description="Whose job it is: projects share the workers fairly, and may have limits."
    )
    priority: int = Field(0, ge=-100, le=100, strict=True, description="Higher ones are taken up first.")
    queue: Name | None = Field(
        None,
        description="Workers that serve this queue take the job. Null: by what it needs, `gpu` if it names a GPU, "
        "`cpu` if it shuts GPUs out, else `default`.",
    )
    retry: RetrySpec = RetrySpec()
    deadline: DeadlineSpec = DeadlineSpec()


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

    @model_validator(mode="after")
    def _can_learn(self) -> TrainJob:
        if self.fit.optimizer is not None or not isinstance(self.model, UserModel):
            self.devices.check_optimizer(self.fit.optimizer.name if self.fit.optimizer else "adam")
        asynchronous = isinstance(self.strategy, ParameterServerStrategy) and self.strategy.workers > 1
        if asynchronous and self.fit.deterministic:
            raise ValueError(
                "fit.deterministic does not go with several workers of parameter_server, which apply their steps as "
                "they come: set strategy.workers to 1, or choose multi_worker_mirrored"
            )
        return self


class ExportJob(ExportFields, JobFields):
    """Write a trained model in one or several formats, and publish it if asked."""

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["export"] = "export"
    publish: PublishSpec | None = None

    @model_validator(mode="after")
    def _published_as_saved_model(self) -> ExportJob:
        if self.publish is not None and not any(item.format == "saved_model" for item in self.formats):
            raise ValueError("to publish, 'saved_model' must be among the formats: it is what is served")
        return self
