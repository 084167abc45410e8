"""Why a program ended, in words: native aborts, limits on memory, and what of the log is shown."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.worker import causes
from services.worker.deadline import RunClock
from shared.jobs import Attempt, AttemptOutcome, Claim, Job, JobState


def test_a_native_abort_shows_what_was_said_before_it(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with log.open("wb") as out:
        code = "import os; os.write(2, b'F0000 lib.cc:7] Check failed: handle != nullptr\\n'); os.abort()"
        done = subprocess.run([sys.executable, "-c", code], stderr=out, check=False)
    error = causes.crash(done.returncode, oom_before=causes.oom_kills(), log_file=log)
    assert error.code == "trainer_killed"
    assert "SIGABRT" in error.message
    assert error.detail is not None
    assert "Check failed" in error.detail


@pytest.mark.parametrize(
    "words",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "F tensor.cc] OOM when allocating tensor",
        "mmap: Cannot allocate memory",
    ],
)
def test_an_abort_for_want_of_memory_is_told_apart(tmp_path: Path, words: str) -> None:
    log = tmp_path / "job.log"
    log.write_text(f"epoch 1\n{words}\n")
    assert causes.crash(-signal.SIGABRT, oom_before=0, log_file=log).code == "oom_host"
    assert causes.crash(-signal.SIGTERM, oom_before=0, log_file=log).code == "trainer_killed"


def test_an_old_word_about_memory_is_no_cause(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("warning: out of memory, will try again\n" + "a step went well\n" * 200)
    assert causes.crash(-signal.SIGABRT, oom_before=0, log_file=log).code == "trainer_killed"


def test_detail_is_the_log_and_what_the_log_does_not_have(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    assert causes.detail(log, None) is None
    assert causes.detail(log, "OSError: full") == "OSError: full"
    log.write_text("epoch 1\nValueError: no\n")
    assert causes.detail(log, "ValueError: no") == "epoch 1\nValueError: no"
    assert causes.detail(log, "OSError: full") == "epoch 1\nValueError: no\nOSError: full"
    assert causes.of_os_error(OSError(28, "No space left on device")).code == "disk_full"


def job(spec: dict[str, object], attempts: tuple[Attempt, ...]) -> Job:
    return Job(
        id="job_1", kind="train", name=None, state=JobState.RUNNING, stage=None, model=None, labels={}, spec=spec,
        created_at=0.0, started_at=0.0, updated_at=0.0, finished_at=None, attempt=len(attempts), max_attempts=3,
        cancel_requested=False, worker_id="w", lease_until=None, progress=None, metrics={}, run={}, error=None,
        result=None, run_dir=None, retry_of=None, resume_from=None, event_seq=0, attempts=attempts,
    )  # fmt: skip


def test_running_time_is_counted_over_all_attempts() -> None:
    earlier = (
        Attempt(1, "w", 0.0, 40.0, AttemptOutcome.LOST, None),
        Attempt(2, "w", 1000.0, 1030.0, AttemptOutcome.RELEASED, None),
        Attempt(3, "w", 2000.0, None, None, None),
    )
    claim = Claim("job_1", "t", 3, "w")
    assert not RunClock(job({"deadline": {"run_seconds": 75.0}}, earlier), claim).over()
    spent = RunClock(job({"deadline": {"run_seconds": 70.0}}, earlier), claim)
    assert spent.over()
    assert spent.error().code == "deadline"
    assert "modelyard retry job_1" in str(spent.error().hint)
    assert not RunClock(job({"deadline": {"run_seconds": None}}, earlier), claim).over()
    assert not RunClock(job({}, earlier), claim).over()
