"""Where a label's requests go: one version, or several by weight, watched and shadowed.

A target is a version number, or the name of another label, which is followed at each request.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, StrictInt, field_validator, model_validator

from shared.names import NAME_PATTERN
from shared.specs.base import Spec

MAX_TARGETS = 10
_LABEL = re.compile(NAME_PATTERN)
LARGEST_VERSION = 2**62
VersionNumber = Annotated[StrictInt, Field(ge=1, le=LARGEST_VERSION)]


def checked_target(value: str) -> str:
    """A version number in plain decimal digits, or the name of a label.

    Raises:
        ValueError: it is neither.
    """
    if value.isascii() and value.isdigit() and len(value) < 20 and 1 <= int(value) <= LARGEST_VERSION:
        return str(int(value))
    if value.isdigit() or not _LABEL.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is neither a version number nor the name of a label")
    return value


class Guard(Spec):
    """Bounds that the newcomer must keep; when it leaves one it gets no more requests.

    The newcomer is every target of a split but the heaviest, or the version that a label was moved to last.
    """

    max_error_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of requests that may fail beyond the share that fails on the other side.",
    )
    max_p95_ms: float | None = Field(None, gt=0, le=600_000, description="95th percentile, in milliseconds.")
    max_p95_ratio: float | None = Field(
        None, gt=1, le=1000, description="95th percentile as a multiple of the other side's."
    )
    min_requests: int = Field(
        30, ge=1, le=1_000_000, description="Requests in the window before anything is decided."
    )
    window_seconds: float = Field(60.0, ge=1, le=3600, description="How far back is looked.")

    @model_validator(mode="after")
    def _some_bound(self) -> Guard:
        if self.max_error_rate is None and self.max_p95_ms is None and self.max_p95_ratio is None:
            raise ValueError("give at least one of max_error_rate, max_p95_ms and max_p95_ratio")
        return self


class Shadow(Spec):
    """A version that gets copies of the requests; its answers are compared, and thrown away."""

    to: str = Field(description="Version number or label.", examples=["5", "candidate"])
    percent: float = Field(100.0, gt=0, le=100)

    @field_validator("to", mode="before")
    @classmethod
    def _target(cls, value: Any) -> Any:
        return _checked_key(value)


class LabelRoute(Spec):
    """Body of ``PUT /models/{model}/labels/{label}``: ``{"version": 3}`` or ``{"split": {"stable": 90, "4": 10}}``."""

    version: VersionNumber | None = Field(None, examples=[3], description="All requests go to this version.")
    split: dict[str, Annotated[float, Field(ge=0, le=1e9)]] | None = Field(
        None,
        description="Weight by version number or label; shares are weights over their sum.",
        examples=[{"stable": 90, "canary": 10}],
    )
    shadow: Shadow | None = None
    guard: Guard | None = None

    @field_validator("split", mode="before")
    @classmethod
    def _targets(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if not 1 <= len(value) <= MAX_TARGETS:
            raise ValueError(f"a split has 1 to {MAX_TARGETS} targets")
        found = {_checked_key(key): weight for key, weight in value.items()}
        if len(found) != len(value):
            raise ValueError("a target is named twice")
        return found

    @model_validator(mode="after")
    def _one_of(self) -> LabelRoute:
        if (self.version is None) == (self.split is None):
            raise ValueError("give one of 'version' and 'split'")
        if self.split is not None and not sum(self.split.values()) > 0:
            raise ValueError("all weights of 'split' are 0")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weight by target, in any form of the route; targets of weight 0 are kept."""
        return dict(self.split) if self.split is not None else {str(self.version): 1.0}

    @property
    def targets(self) -> list[str]:
        """Every version number and label that the route names."""
        return [*self.weights, *([self.shadow.to] if self.shadow else [])]

    @property
    def heaviest(self) -> str:
        """The target with the largest share; the first of equals."""
        weights = self.weights
        return max(weights, key=lambda target: weights[target])

    def without(self, target: str) -> LabelRoute | None:
        """The route with nothing for ``target``; None if nothing would be left."""
        left = {name: weight for name, weight in self.weights.items() if name != target}
        if not sum(left.values()) > 0:
            return None
        if len(left) == 1 and (only := next(iter(left))).isdigit():
            return LabelRoute(version=int(only), shadow=self.shadow)
        return LabelRoute(split=left, shadow=self.shadow, guard=self.guard if len(left) > 1 else None)


def _checked_key(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return checked_target(value) if isinstance(value, str) else value
