"""The whole request: a union on ``kind``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.specs.job import ExportJob, TrainJob
from shared.specs.tune import TuneJob

KINDS = ("train", "tune", "export")
_WHICH_KINDS = f"'kind' is one of: {', '.join(KINDS)}"


def _kind(value: Any) -> str | None:
    """``kind``, which a train job may leave out; None for one that is not known."""
    kind = value.get("kind", "train") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in KINDS else None


JobSpec = Annotated[
    Annotated[TrainJob, Tag("train")] | Annotated[TuneJob, Tag("tune")] | Annotated[ExportJob, Tag("export")],
    Discriminator(
        _kind,
        custom_error_type="job_kind",
        custom_error_message=_WHICH_KINDS,
    ),
]
JOB: TypeAdapter[TrainJob | TuneJob | ExportJob] = TypeAdapter(JobSpec)


def parse_job(data: Any) -> TrainJob | TuneJob | ExportJob:
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
