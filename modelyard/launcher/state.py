"""``<home>/up.json``: what the launcher runs, for ``modelyard doctor``, scripts and tests. Holds no secrets."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from shared.home import Home


class UpState(BaseModel):
    """Written when parts start or change, removed at the end."""

    pid: int
    url: str
    serving_url: str
    tensorboard_url: str | None
    started_at: datetime
    ready: bool = False
    parts: dict[str, int] = {}  # name -> process id


def state_file(home: Home) -> Path:
    return home.root / "up.json"


def write_state(home: Home, state: UpState) -> None:
    """Replace the file in one step, so that a reader sees the old one or the new one."""
    target = state_file(home)
    draft = target.with_suffix(".tmp")
    draft.write_text(state.model_dump_json(indent=1))
    draft.replace(target)


def read_state(home: Home) -> UpState | None:
    """The running launcher's state; None when there is none, or it is of one that was killed."""
    try:
        state = UpState.model_validate_json(state_file(home).read_bytes())
        os.kill(state.pid, 0)
    except (OSError, ValidationError):
        return None
    return state


def remove_state(home: Home) -> None:
    state_file(home).unlink(missing_ok=True)
