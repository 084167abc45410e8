"""How a supervisor treats programs that behave, and programs that do not. The programs are small scripts that speak
the protocol; the real one is tried in tests/training and tests/integration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.worker import causes
from services.worker.preloader import Trainer
from services.worker.protocol import Failed, Finished, StageEntered, Stopped, TrainingEvent
from services.worker.supervision import Ending, StopReason, watch

PRELUDE = """
import json, os, signal, sys, time
events = int(sys.argv[1])
def say(**event): os.write(events, json.dumps(event).encode() + b"\\n")
"""


def started(script: str) -> Trainer:
    lifeline_out, lifeline_in = os.pipe()
    events_out, events_in = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(events_in)],
        stdin=lifeline_out,
        pass_fds=[events_in],
        start_new_session=True,
    )
    os.close(lifeline_out)
    os.close(events_in)
    return Trainer(process, lifeline_in, events_out, warm=False)


def watched(
    script: str,
    *,
    reason: Callable[[], StopReason | None] = lambda: None,
    grace: float = 5.0,
) -> tuple[Ending, list[TrainingEvent]]:
    trainer, seen = started(script), []
    try:
        ending = watch(
            trainer,
            on_event=seen.append,
            on_tick=lambda: None,
            stop_reason=reason,
            grace_seconds=grace,
        )
    finally:
        trainer.close()
    return ending, seen


def after(seconds: float, reason: StopReason) -> Callable[[], StopReason | None]:
    start = time.monotonic()
    return lambda: reason if time.monotonic() - start > seconds else None


FINISH = 'say(event="finished", metrics={"a": 1.0}, epochs=1, steps=2)\n'


def test_what_was_said_while_the_supervisor_was_busy_is_read_after_the_programs_end() -> None:
    trainer, seen = started("time.sleep(0.3)\n" + FINISH), []

    def slow_store() -> None:
        while trainer.poll() is None:
            time.sleep(0.01)

    try:
        ending = watch(
            trainer,
            on_event=seen.append,
            on_tick=slow_store,
            stop_reason=lambda: None,
            grace_seconds=5,
        )
    finally:
        trainer.close()
    assert isinstance(ending.last_word, Finished)
    assert [type(event) for event in seen] == [Finished]


def test_events_arrive_in_order_and_the_last_word_is_kept() -> None:
    ending, seen = watched(
        'say(event="stage", stage="building")\nsay(event="stage", stage="training")\n' + FINISH
    )
    assert [event.stage for event in seen if isinstance(event, StageEntered)] == ["building", "training"]
    assert isinstance(ending.last_word, Finished)
    assert ending.exit_code == 0
    assert ending.stopped_for is None


def test_a_program_that_says_why_it_failed_is_believed() -> None:
    ending, _ = watched('say(event="failed", code="nan_loss", message="NaN"); sys.exit(1)')
    assert isinstance(ending.last_word, Failed)
    assert ending.last_word.code == "nan_loss"


def test_a_program_that_dies_without_a_word_gives_its_exit_code() -> None:
    assert watched("sys.exit(3)")[0] == Ending(None, 3, None)
    assert watched("os.kill(os.getpid(), signal.SIGKILL)")[0].exit_code == -signal.SIGKILL


def test_lines_that_are_no_events_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    ending, seen = watched('os.write(events, b"hello\\n{}\\n" + b"x" * 400000 + b"\\n")\n' + FINISH)
    assert isinstance(ending.last_word, Finished)
    assert len(seen) == 1
    assert "dropped" in caplog.text


def test_asking_to_stop_lets_the_program_say_its_last_word() -> None:
    script = """
def stop(*_): say(event="stopped", checkpoint="checkpoints/1"); sys.exit(75)
signal.signal(signal.SIGTERM, stop)
say(event="stage", stage="training")
while True: time.sleep(0.05)
"""
    ending, _ = watched(script, reason=after(0.3, StopReason.SHUTDOWN))
    assert isinstance(ending.last_word, Stopped)
    assert (ending.exit_code, ending.stopped_for) == (75, StopReason.SHUTDOWN)


def test_a_program_deaf_to_term_is_killed_after_its_grace() -> None:
    script = 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(event="stage", stage="x")\nwhile True: time.sleep(1)'
    begun = time.monotonic()
    ending, _ = watched(script, reason=after(0.3, StopReason.CANCEL), grace=0.5)
    assert ending.exit_code == -signal.SIGKILL
    assert 0.7 < time.monotonic() - begun < 5


def test_a_program_whose_job_was_lost_is_killed_at_once() -> None:
    ending, _ = watched("while True: time.sleep(1)", reason=after(0.2, StopReason.LOST), grace=60)
    assert ending.exit_code == -signal.SIGKILL
    assert ending.stopped_for is StopReason.LOST


def test_a_program_that_lingers_after_its_last_word_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.supervision.LINGER_SECONDS", 0.5)
    ending, _ = watched(FINISH + "while True: time.sleep(1)")
    assert isinstance(ending.last_word, Finished)


def test_a_stray_child_that_holds_the_pipe_does_not_hold_up_the_end() -> None:
    script = 'import subprocess; subprocess.Popen(["sleep", "60"], pass_fds=[events])\n' + FINISH
    begun = time.monotonic()
    ending, _ = watched(script)
    assert isinstance(ending.last_word, Finished)
    assert time.monotonic() - begun < 10


def test_closing_ends_what_still_runs() -> None:
    trainer = started("time.sleep(60)")
    thread = threading.Timer(0.2, trainer.close)
    thread.start()
    deadline = time.monotonic() + 5
    while trainer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    thread.join()
    assert trainer.poll() == -signal.SIGKILL


def test_a_crash_is_told_in_words_with_the_tail_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("x" * 10_000 + "\nlast words\n")
    error = causes.crash(-signal.SIGKILL, oom_before=causes.oom_kills(), log_file=log)
    assert (error.code, error.detail) == ("trainer_killed", "last words")
    assert "SIGKILL" in error.message
    assert causes.crash(-signal.SIGKILL, oom_before=-1, log_file=log).code == "oom_host"
    assert causes.crash(-11, oom_before=0, log_file=log).message.endswith("SIGSEGV.")
    assert "exit code 3" in causes.crash(3, oom_before=0, log_file=tmp_path / "none").message
