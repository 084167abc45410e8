"""Which action comes next for one model's versions: a pure function over a snapshot.

Availability preserving, as TensorFlow Serving always runs: the new version is loaded while the old one goes
on serving, and the old one goes once a wanted version is AVAILABLE. So two versions are in memory at the peak.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """A version's life, in TensorFlow Serving's words. It only ever moves downwards."""

    START = "START"  # known, nothing done yet
    LOADING = "LOADING"  # being loaded, or waiting for another try
    AVAILABLE = "AVAILABLE"  # answers requests; announced after it is true
    UNLOADING = "UNLOADING"  # takes no new request; announced before it is true
    END = "END"  # gone from memory, or failed for good


@dataclass(frozen=True)
class Snapshot:
    """One version as the policy sees it."""

    version: int
    state: State
    wanted: bool


@dataclass(frozen=True)
class Load:
    """Start loading ``version``."""

    version: int


@dataclass(frozen=True)
class Unload:
    """Stop giving out ``version``, and free it when its last request ends."""

    version: int


Action = Load | Unload


def next_action(versions: Collection[Snapshot]) -> Action | None:
    """The one thing to do now, or None. Stateless: ask again after each change.

    Unloading comes before loading, lowest version first. While no wanted version is AVAILABLE the highest
    unwanted one is kept. Of the versions to load, the highest comes first.
    """
    wanted = [one for one in versions if one.wanted]
    leaving = [one.version for one in versions if not one.wanted and one.state is State.AVAILABLE]
    replaced = not wanted or any(one.state is State.AVAILABLE for one in wanted)
    if leaving and (replaced or len(leaving) > 1):
        return Unload(min(leaving))
    fresh = [one.version for one in wanted if one.state is State.START]
    return Load(max(fresh)) if fresh else None
