"""The whole request: a union on ``kind``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter

from shared.names import NAME_PATTERN
from shared.specs.base import Spec
from shared.specs.dataset import DatasetSpec
from shared.specs.devices import DeviceSpec
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


class TrainJob(Spec):
    """Train a model, evaluate it, and publish it if asked."""

    kind: Literal["train"] = "train"
    name: Annotated[str, StringConstraints(max_length=200)] | None = Field(None, description="For people.")
    labels: dict[LabelText, Annotated[str, StringConstraints(max_length=63)]] = Field(
        {}, max_length=16, description="Your own key-value pairs, to find the job by."
    )
    model: ModelSpec
    dataset: DatasetSpec
    fit: FitSpec = FitSpec()
    strategy: StrategySpec = DefaultStrategy()
    devices: DeviceSpec = DeviceSpec()
    tensorboard: TensorBoardSpec = TensorBoardSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    publish: PublishSpec | None = None
    retry: RetrySpec = RetrySpec()


JobSpec = TrainJob
_ADAPTER: TypeAdapter[TrainJob] = TypeAdapter(TrainJob)


def parse_job(data: Any) -> TrainJob:
    """Check plain JSON data and return the spec.

    Raises:
        pydantic.ValidationError: with the path of each offending field.
    """
    return _ADAPTER.validate_python(data)
