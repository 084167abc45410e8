"""Failures in words: what went wrong, whose fault it is, what to do about it. No TensorFlow in this module."""

from __future__ import annotations

import errno
import re


class TrainingFailed(Exception):
    """The job can't go on.

    Attributes:
        code: stable and machine-readable, one of ``shared.failure_codes``.
        message: one sentence for a person.
        hint: what to do about it.
    """

    def __init__(
        self, code: str, message: str, hint: str | None = None, *, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail


def data_invalid(message: str, hint: str | None = None) -> TrainingFailed:
    """The data can't be trained on as they are."""
    return TrainingFailed("data_invalid", message, hint)


def model_invalid(field: str, message: str, hint: str | None = None) -> TrainingFailed:
    """The model or what is compiled into it can't be built; ``field`` is the path in the spec."""
    return TrainingFailed("model_invalid", f"{field}: {message}", hint)


_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(
    r"OOM when allocating|out of memory|failed to allocate memory|bad_alloc", re.IGNORECASE
)
_SHAPES = re.compile(
    r"incompatible (shapes?|with the layer)|must have the same shape|Matrix size-incompatible|"
    r"Negative dimension size|Dimensions must be equal|expected .*shape",
    re.IGNORECASE,
)


def explain(error: BaseException) -> TrainingFailed:
    """Any exception as a failure that a user can act on; the same one if it is one already."""
    if isinstance(error, TrainingFailed):
        return error
    text = f"{error}"
    summary = shorten(f"{type(error).__name__}: {text}")
    if _is_disk_full(error, text):
        return TrainingFailed(
            "disk_full",
            "The disk is full: a file of this run could not be written.",
            "Free space in Modelyard's home folder (old runs, cache/), or keep fewer checkpoints; then retry the job, "
            "which goes on from its last checkpoint.",
            detail=summary,
        )
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        on_device = "gpu" in text.lower() or "cuda" in text.lower()
        return TrainingFailed(
            "oom_gpu" if on_device else "oom_host",
            f"The {'GPU' if on_device else 'machine'} has not enough memory for this job.",
            "Use a smaller fit.batch_size or a smaller model"
            + ("." if on_device else ", or run fewer jobs at once on this machine."),
            detail=summary,
        )
    if type(error).__name__ in {"InvalidArgumentError", "ValueError"} and _SHAPES.search(text):
        return TrainingFailed(
            "shape_mismatch",
            f"Shapes do not fit together: {shorten(text, 400)}",
            "Compare the model's input and output with the data's shapes, which are in the job's run facts.",
            detail=summary,
        )
    return TrainingFailed(
        "internal",
        f"Training ended with {shorten(f'{type(error).__name__}: {text}', 400)}",
        "The job's log has the full traceback.",
    )


def _is_disk_full(error: BaseException, text: str) -> bool:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    return bool(_DISK_FULL.search(text))


_UNPRINTABLE = re.compile("\x1b\\[[0-9;]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]")


def printable(text: str) -> str:
    """``text`` without terminal codes, and with what neither UTF-8 nor a database can hold escaped."""
    return _UNPRINTABLE.sub("", text).encode("utf-8", "backslashreplace").decode()


def shorten(text: str, limit: int = 2000) -> str:
    """``text`` on one line, printable, cut at ``limit`` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
