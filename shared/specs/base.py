"""The common base of all specs, and the helper that picks a union member by the key that is present."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Frozen; unknown fields are errors, so that a typo never trains the wrong thing for a night."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def by_key(*keys: str) -> Callable[[Any], str | None]:
    """A discriminator for unions whose members are told apart by one of ``keys``.

    Returns None (pydantic then reports the expected tags) unless exactly one of the keys is present.
    """

    def pick(value: Any) -> str | None:
        if isinstance(value, dict):
            found = [key for key in keys if key in value]
        else:
            found = [key for key in keys if hasattr(value, key)]
        return found[0] if len(found) == 1 else None

    return pick
