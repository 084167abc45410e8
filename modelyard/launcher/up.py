"""``modelyard up``: refuse early, start everything, stay until told to stop."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from modelyard.launcher.errors import LaunchError
from modelyard.launcher.guard import (
    check_address,
    check_allowed,
    free_port,
    lock_home,
    low_disk,
    prepare_home,
)
from modelyard.launcher.journal import Journal
from modelyard.launcher.keys import check_locked
from modelyard.launcher.options import load_settings
from modelyard.launcher.parts import make_plan
from modelyard.launcher.state import UpState, remove_state, write_state
from modelyard.launcher.supervisor import Supervisor
from shared.settings import Settings


def up(
    *,
    home: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    slots: int | None = None,
    api_processes: int | None = None,
    allow_paths: list[Path] | None = None,
    code: list[Path] | None = None,
) -> None:
    """Run the platform in the foreground until SIGINT or SIGTERM.

    Raises:
        LaunchError: it could not start; nothing is left running.
    """
    chosen = free_port(host or "127.0.0.1") if port == 0 else port
    settings = load_settings(
        home=home,
        host=host,
        port=chosen,
        slots=slots,
        api_processes=api_processes,
        allow_paths=allow_paths,
        code=code,
    )
    prepare_home(settings.paths)
    check_allowed(settings.allowed_paths)
    check_allowed(settings.code_dirs, option="--code")
    lock = lock_home(settings.paths)
    try:
        check_locked(settings, dict(os.environ))
        check_address(settings.host, settings.port)
        _run(settings)
    finally:
        lock.release()


def _run(settings: Settings) -> None:
    journal = Journal(settings.paths.logs / "up.log")
    plan = make_plan(settings, dict(os.environ))
    journal.note("modelyard", f"starting, home {settings.paths.root}")
    if warning := low_disk(settings.paths):
        journal.note("modelyard", warning, "warn")
    state = UpState(
        pid=os.getpid(),
        url=plan.url,
        serving_url=plan.settings.serving_url,
        tensorboard_url=plan.settings.tensorboard_url,
        started_at=datetime.now(UTC),
    )

    def on_change(parts: dict[str, int], ready: bool) -> None:
        write_state(settings.paths, state.model_copy(update={"parts": parts, "ready": ready}))

    supervisor = Supervisor(plan, journal, on_change)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        supervisor.hurry = supervisor.stop_asked.is_set()
        supervisor.stop_asked.set()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        supervisor.run()
    except LaunchError as error:
        journal.note("modelyard", f"gave up: {error.message}", "bad")
        raise
    finally:
        remove_state(settings.paths)
        for number, handler in before.items():
            signal.signal(number, handler)
    journal.note("modelyard", "stopped")
