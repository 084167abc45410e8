"""Clean-up: what the rules allow to go, and its removal."""

from __future__ import annotations

from shared.retention.clean_up import CleanUp, Going, Removed

__all__ = ["CleanUp", "Going", "Removed"]
