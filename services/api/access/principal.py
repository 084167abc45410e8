"""Who calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request
from starlette.types import Scope

from services.api.errors import Forbidden
from shared.keys import Role


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one key; None: as its role has it. Rates are texts such as ``600/minute``."""

    requests: str | None = None
    predictions: str | None = None
    max_body_mb: int | None = None
    max_upload_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose key was looked up, or anybody where no key was ever made (``open``).

    ``project``: the only project whose jobs the key may submit or change; None: all.
    """

    key_id: str | None
    name: str
    role: Role
    project: str | None = None
    limits: Limits = field(default_factory=Limits)
    via: Literal["key", "session", "launcher", "open"] = "key"

    def check_project(self, project: str) -> None:
        """May it act in this project?

        Raises:
            Forbidden: its key is for another one.
        """
        if self.project is not None and project != self.project:
            raise Forbidden(
                f"This key acts in the project {self.project!r} only, not in {project[:80]!r}.",
                code="project_not_allowed",
                field="project",
                hint=f'Submit with "project": "{self.project}", or use a key of that project.',
            )


OPEN = Principal(None, "anybody", Role.ADMIN, via="open")


def principal_in(scope: Scope) -> Principal | None:
    """The caller that the door let in; None on a public route without a key."""
    found: Any = scope.get("state", {}).get("principal")
    return found if isinstance(found, Principal) else None


def principal_of(request: Request) -> Principal:
    """As ``principal_in``, on a route that is not public."""
    found = principal_in(request.scope)
    if found is None:
        raise RuntimeError(f"{request.url.path} was reached past the door")
    return found
