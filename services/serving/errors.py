"""What can go wrong while answering a request, in TensorFlow's own vocabulary of codes.

Which HTTP status a code becomes is ``rest``'s affair.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The canonical status codes; the values are the names that appear on the wire."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


# By number, as TensorFlow's exceptions carry them.
CODES_BY_NUMBER: tuple[Code, ...] = tuple(Code)


class ServingError(Exception):
    """A request, or a load, that ends with ``code`` and a sentence for the caller."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid_argument(message: str) -> ServingError:
    """The commonest error: the request itself is wrong."""
    return ServingError(Code.INVALID_ARGUMENT, message)
