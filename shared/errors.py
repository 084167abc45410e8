"""Every error that Modelyard's parts raise on purpose, drawn once.

    ModelyardError
    |-- InvalidInput            the caller can mend it; names the field
    |   `-- TooLarge
    |-- NotFound                no such job, dataset, model, version, label
    |-- Conflict                it exists, but not in a state that allows this
    |   |-- IdempotencyConflict same key, another body
    |   `-- StaleClaim          the writer's claim was superseded
    |-- Unavailable             a part we depend on does not answer; worth a retry
    `-- Misconfigured           the operator can mend it

HTTP status codes live in ``services.api.errors`` only; exit codes of the command line in ``modelyard.exits``.
"""

from __future__ import annotations

from typing import Any


class ModelyardError(Exception):
    """Base of all expected errors.

    Attributes:
        code: stable, machine-readable, snake_case.
        message: one sentence for a person.
        hint: what to do about it, or None.
        field: the dotted path of the offending input field, or None.
    """

    code = "internal"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.field = field

    def as_dict(self) -> dict[str, Any]:
        """The error as plain JSON data, without empty members."""
        data = {"code": self.code, "message": self.message, "hint": self.hint, "field": self.field}
        return {key: value for key, value in data.items() if value is not None}


class InvalidInput(ModelyardError):
    """The request or the data can't be used as given."""

    code = "invalid_input"


class TooLarge(InvalidInput):
    """A body or file is over the configured limit."""

    code = "too_large"


class NotFound(ModelyardError):
    """No such thing."""

    code = "not_found"


class Conflict(ModelyardError):
    """The thing is there, but its state does not allow this."""

    code = "conflict"


class IdempotencyConflict(Conflict):
    """An Idempotency-Key was used again with another body."""

    code = "idempotency_conflict"


class StaleClaim(Conflict):
    """A write named a claim token that is no longer the job's current one."""

    code = "stale_claim"


class Unavailable(ModelyardError):
    """A dependency does not answer; trying again later can help."""

    code = "unavailable"
    retryable = True


class Misconfigured(ModelyardError):
    """The installation's own settings are wrong."""

    code = "misconfigured"
