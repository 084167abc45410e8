"""Every code that a job's ``error.code`` can hold: what it means, and whether running the job again can help.

The one table: the worker retries by it, specs and the API are checked against it, docs/errors.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

BACKOFF_SECONDS = (10.0, 60.0, 600.0)


class Retry(StrEnum):
    """What the platform does by itself after a failure."""

    NEVER = "never"  # the same job would end the same way
    ONCE = "once"  # may have been bad luck with the neighbours; a second time it is the job's own
    ATTEMPTS = "attempts"  # the machine's fault: until retry.max_attempts are used up


@dataclass(frozen=True, slots=True)
class FailureCode:
    """One row. ``waits``: a new attempt is put off for a while, for the cause must go away first."""

    meaning: str
    retry: Retry = Retry.NEVER
    waits: bool = False


CODES: Mapping[str, FailureCode] = MappingProxyType(
    {
        "nan_loss": FailureCode("the loss became NaN or infinite"),
        "oom_host": FailureCode("the machine's memory, or the limit set on it, ran out", Retry.ONCE),
        "oom_gpu": FailureCode("a GPU's memory ran out", Retry.ONCE),
        "data_invalid": FailureCode("the data can't be used as they are; line and column are named"),
        "data_missing": FailureCode("the dataset or file is gone"),
        "data_unreachable": FailureCode("the data could not be downloaded", Retry.ATTEMPTS, waits=True),
        "path_not_allowed": FailureCode("a path outside the folders that the operator allows"),
        "dataset_not_found": FailureCode("the uploaded dataset was deleted"),
        "shape_mismatch": FailureCode("data, model, loss or metrics do not fit together"),
        "model_invalid": FailureCode("Keras refuses the architecture, or an argument of it"),
        "request_invalid": FailureCode("the stored job can't be read by this version of the worker"),
        "user_code": FailureCode("your own code raised an error; file and line are named"),
        "code_changed": FailureCode("your own code is not what the job was submitted with"),
        "builder_missing": FailureCode("the worker has no usable builder of that name"),
        "data_changed": FailureCode("the data are not those that a reproduced job was trained on"),
        "device_unavailable": FailureCode("a device was asked for that the worker does not have"),
        "device_invalid": FailureCode("a device can't be set up as asked"),
        "strategy_unavailable": FailureCode("the strategy can't run on this worker"),
        "preflight_mismatch": FailureCode("several replicas do not compute what one does"),
        "source_invalid": FailureCode(
            "the model to export or to go on from is gone, damaged, or refused by Keras"
        ),
        "format_not_possible": FailureCode("the model can't be had in a format that was asked for"),
        "export_mismatch": FailureCode("the exported model does not answer as the trained one"),
        "parity_mismatch": FailureCode("the model server answers otherwise than training did"),
        "version_not_available": FailureCode("the model server could not load the version"),
        "worker_lost": FailureCode("the worker was not heard of for a whole lease", Retry.ATTEMPTS),
        "trainer_killed": FailureCode("a signal ended the training process", Retry.ATTEMPTS),
        "trainer_crashed": FailureCode("the training process ended without a word", Retry.ATTEMPTS),
        "member_lost": FailureCode("a process of the job's cluster stopped answering", Retry.ATTEMPTS),
        "files_not_shared": FailureCode(
            "a worker of the job's gang does not see the run's folder, or can't write there",
            Retry.ATTEMPTS,
            waits=True,
        ),
        "worker_unreachable": FailureCode(
            "workers of the job's gang can't reach each other", Retry.ATTEMPTS, waits=True
        ),
        "port_taken": FailureCode(
            "other programs took the cluster's ports, five times", Retry.ATTEMPTS, waits=True
        ),
        "disk_full": FailureCode(
            "no room for data, a checkpoint, event files, the export or the version",
            Retry.ATTEMPTS,
            waits=True,
        ),
        "deadline": FailureCode("the time that the job was given is over"),
        "cancelled": FailureCode("somebody asked for its end; the state is 'cancelled', not 'failed'"),
        "pruned": FailureCode(
            "a trial was ended early by its study's pruner; the state is 'cancelled', not 'failed'"
        ),
        "objective_missing": FailureCode("a trial has no metric of the objective's name"),
        "objective_not_finite": FailureCode("a trial's objective is no finite number at the end"),
        "parameters_invalid": FailureCode(
            "a trial's parameters make no valid job together; it was not trained"
        ),
        "too_many_failures": FailureCode("more trials of a study failed than max_failures allows"),
        "no_trial_complete": FailureCode("a study ended without a complete trial"),
        "store_unavailable": FailureCode(
            "the database was away when the worker had to write", Retry.ATTEMPTS, waits=True
        ),
        "internal": FailureCode("a defect of Modelyard or of a library; the log has the traceback"),
    }
)
RETRYABLE = frozenset(code for code, row in CODES.items() if row.retry is not Retry.NEVER)


def may_retry(code: str, *, earlier: Sequence[str], on: Sequence[str] | None) -> bool:
    """Whether another attempt can help after ``code``.

    Args:
        code: of the attempt that has just failed; an unknown one is never retried.
        earlier: codes of the job's attempts before it.
        on: the codes that the job's owner narrows retries to; None for all.
    """
    row = CODES.get(code)
    if row is None or row.retry is Retry.NEVER or (on is not None and code not in on):
        return False
    return row.retry is Retry.ATTEMPTS or code not in earlier


def pause_before_retry(code: str, *, failures: int) -> float:
    """Seconds to wait before the next attempt, after the ``failures``-th failed one (from 1)."""
    row = CODES.get(code)
    if row is None or not row.waits:
        return 0.0
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
