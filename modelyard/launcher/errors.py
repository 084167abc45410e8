"""Why the platform did not start, with the exit code that says so to a script."""

from __future__ import annotations

from modelyard.exits import Exit
from shared.errors import ModelyardError


class LaunchError(ModelyardError):
    """One line for a person, the way out as ``hint``, and the exit code."""

    code = "launch_failed"

    def __init__(self, message: str, *, exit_code: Exit, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
