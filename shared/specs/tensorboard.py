"""What a run writes for TensorBoard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from shared.specs.base import Spec

MAX_PROFILED_STEPS = 1000
Step = Annotated[int, Field(ge=1, le=2**31 - 1)]


class TensorBoardSpec(Spec):
    """What a run writes for TensorBoard."""

    histogram_freq: int = Field(1, ge=0, description="Weight histograms every so many epochs; 0: none.")
    write_images: bool = Field(True, description="Weights as images, with the histograms.")
    write_graph: bool = Field(True, description="The model's layers and its ops.")
    update_freq: Literal["epoch", "batch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="Scalars by epoch, by batch, or every so many batches."
    )
    sample_images: int = Field(10, ge=0, le=100, description="Training images shown; 0: none.")
    text: bool = Field(True, description="The job as text.")
    hparams: bool = Field(True, description="The job's settings, comparable with those of other jobs.")
    confusion_matrix: bool = Field(True, description="Of classifiers on the test rows, as an image.")
    profile: tuple[Step, Step] | None = Field(
        None, description="First and last step to profile, counted from 1 over all epochs. Null: none."
    )

    @field_validator("profile")
    @classmethod
    def _in_order(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[1] - value[0] < MAX_PROFILED_STEPS:
            raise ValueError(f"must be the first and the last of at most {MAX_PROFILED_STEPS} steps")
        return value
