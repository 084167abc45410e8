"""Exit codes of the command line. ``docs/cli.md`` lists them, and a test compares the two."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Each member's ``meaning`` is what the documentation says."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    @classmethod
    def of(cls, code: int | None) -> Exit | None:
        """The member with this number; None for any other."""
        return next((member for member in cls if member == code), None)

    OK = 0, "done"
    INTERNAL = 1, "a bug in Modelyard, or the server's own error (HTTP 500)"
    USAGE = 2, "wrong options or arguments"
    UNREACHABLE = 3, "nothing answers at the server's address"
    INVALID = 4, "the server refused the request as given (HTTP 400, 413, 415, 422)"
    NOT_FOUND = 5, "no such job, model, version or dataset (HTTP 404)"
    CONFLICT = 6, "the thing's state does not allow this (HTTP 409)"
    UNAVAILABLE = (
        7,
        "too busy, or a part that the server needs does not answer (HTTP 429, 502, 503, 504); try again",
    )
    JOB_FAILED = 8, "the followed job ended as failed"
    JOB_CANCELLED = 9, "the followed job ended as cancelled"
    DENIED = 10, "an API key is needed, this one is not good, or its role does not allow this (HTTP 401, 403)"
    UNUSABLE_FOLDER = 20, "up: the home folder, or one named by --allow-path, can't be used"
    ALREADY_UP = 21, "up: another `modelyard up` runs on this home folder"
    PORT_IN_USE = 22, "up: the address is taken, or may not be bound"
    MISCONFIGURED = 23, "up: a MODELYARD_* setting is wrong, or a package is missing"
    PART_FAILED = 24, "up: a part would not start; the message names its log"
    UNHEALTHY = 25, "doctor: something needs attention"
    BELOW_TARGET = 26, "demo: test accuracy is not above the target"
    NOT_REPRODUCED = 27, "reproduce: the metrics are not equal"
    BACKUP_FAILED = 28, "backup, restore: not done; the message says why"
    OPEN_TO_ALL = 29, "up: others could reach the address, and there is no API key"
    INTERRUPTED = 130, "Ctrl-C"
