"""The launcher over small stand-in processes: what it starts again, when it gives up, how it stops."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from modelyard.exits import Exit
from modelyard.launcher import supervisor as module
from modelyard.launcher.child import Child, describe_end, last_words, rotate
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.journal import Journal
from modelyard.launcher.parts import Part, Plan
from modelyard.launcher.supervisor import Supervisor
from shared.settings import Settings

SLEEPER = "import time\nprint('ready', flush=True)\ntime.sleep(60)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 0.02)


def part(name: str, code: str, *, ready: Callable[[int], bool] | None = None, **more: object) -> Part:
    return Part(name, (sys.executable, "-c", code), ready or (lambda _pid: True), "there", **more)  # type: ignore[arg-type]


class Run:
    """A supervisor and what it said; ``until`` runs it in this thread, as the launcher does."""

    def __init__(self, home: Path, *parts: Part, migrate: str = "") -> None:
        settings = Settings(home=home)
        settings.paths.create()
        self.out = io.StringIO()
        self.changes: list[tuple[dict[str, int], bool]] = []
        plan = Plan(
            settings=settings,
            env=dict(os.environ),
            first=parts[:1],
            then=parts[1:],
            migrate=(sys.executable, "-c", migrate),
        )
        self.supervisor = Supervisor(
            plan, Journal(home / "up.log", self.out), lambda *change: self.changes.append(change)
        )

    @property
    def said(self) -> str:
        return self.out.getvalue()

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        met = threading.Event()

        def watch() -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not met.is_set():
                if condition():
                    met.set()
                time.sleep(0.01)
            self.supervisor.stop_asked.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.supervisor.run()
        finally:
            done = met.is_set()
            met.set()
            watcher.join()
        assert done, self.said

    def pid(self, name: str) -> int:
        return next(pids[name] for pids, _ in reversed(self.changes) if name in pids)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    before = set(psutil.Process().children())  # of tests that share this process
    yield tmp_path
    # nothing that a test started may outlive it
    left = set(psutil.Process().children()) - before
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


def test_says_ready_once_all_parts_are(home: Path) -> None:
    late = time.monotonic() + 0.3
    run = Run(home, part("broker", SLEEPER), part("api", SLEEPER, ready=lambda _: time.monotonic() > late))
    run.until(lambda: "is up" in run.said)
    assert (
        run.said.index("broker       there") < run.said.index("api          there") < run.said.index("is up")
    )
    assert [ready for _, ready in run.changes][-1]


def test_stops_in_order_the_broker_last(home: Path) -> None:
    run = Run(home, part("broker", SLEEPER), part("worker", SLEEPER), part("api", SLEEPER))
    run.until(lambda: "is up" in run.said)
    order = [run.said.index(f"{name:<12} stopped") for name in ("api", "worker", "broker")]
    assert order == sorted(order)


def test_a_part_that_dies_is_started_again_and_its_last_words_are_told(home: Path) -> None:
    code = f"import sys, pathlib\nmark = pathlib.Path({str(home / 'mark')!r})\n"
    code += "if mark.exists():\n    import time; time.sleep(60)\nmark.touch()\nsys.exit('out of luck')"
    run = Run(home, part("broker", SLEEPER), part("worker", code))
    run.until(lambda: run.said.count("worker       there") >= 1 and "out of luck" in run.said)
    assert "ended with exit code 1" in run.said


def test_a_crash_loop_is_reported_with_its_log(home: Path) -> None:
    # ready at first sight, so that it counts as a part that once ran
    run = Run(
        home, part("broker", SLEEPER), part("worker", "import time; time.sleep(0.1); raise SystemExit(9)")
    )
    run.until(lambda: "times in a row" in run.said)
    assert "worker.log" in run.said


def test_a_part_that_never_gets_ready_ends_the_start(home: Path) -> None:
    code = "import sys; sys.exit('no such table')"
    run = Run(home, part("broker", SLEEPER), part("api", code, ready=lambda _: False))
    with pytest.raises(LaunchError, match="no such table") as caught:
        run.until(lambda: False)
    assert caught.value.exit_code is Exit.PART_FAILED
    assert "api.log" in str(caught.value.hint)


def test_a_part_that_is_not_essential_does_not_hold_up_the_rest(home: Path) -> None:
    failing = part("tensorboard", "raise SystemExit(3)", ready=lambda _: False, essential=False)
    run = Run(home, failing, part("api", SLEEPER))
    run.until(lambda: "is up" in run.said and run.said.count("exit code 3") >= 4)


def test_a_failed_migration_ends_the_start(home: Path) -> None:
    run = Run(
        home, part("broker", SLEEPER), part("api", SLEEPER), migrate="import sys; sys.exit('disk is full')"
    )
    with pytest.raises(LaunchError, match="disk is full"):
        run.until(lambda: False)


def test_a_part_that_ignores_term_is_killed_after_its_grace(home: Path) -> None:
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('x', flush=True)\ntime.sleep(60)"
    run = Run(home, part("broker", deaf, ready=lambda _: _wrote(home, "broker"), grace=0.2))
    run.until(lambda: "broker       there" in run.said)
    assert "did not stop within 0.2 s" in run.said


def _wrote(home: Path, name: str) -> bool:
    log = home / "logs" / f"{name}.log"
    return log.exists() and log.stat().st_size > 0


def test_what_a_part_leaves_in_its_group_is_ended_too(home: Path) -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    code = f"import subprocess, sys, time\nprint(subprocess.Popen({sleeper}).pid, flush=True)\ntime.sleep(60)"
    run = Run(home, part("worker", code, ready=lambda _: _wrote(home, "worker")))
    run.until(lambda: "worker       there" in run.said)
    left = int((home / "logs" / "worker.log").read_text().split()[0])
    deadline = time.monotonic() + 5
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_is_out_of_reach_of_ctrl_c(tmp_path: Path) -> None:
    child = Child("x", (sys.executable, "-c", SLEEPER), dict(os.environ), tmp_path / "x.log")
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    child.kill_group()
    assert child.process.wait() == -signal.SIGKILL


def test_a_large_log_is_put_aside_once(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * (8 * 2**20 + 1))
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "a.log.1").exists()
    rotate(log)


def test_last_words_are_the_last_line_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_words(log) == "it wrote nothing"
    log.write_text("Traceback\n  File\nValueError: no\n\n")
    assert last_words(log) == "ValueError: no"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-15, "SIGTERM"),
        (-9, "SIGKILL (out of memory?)"),
        (-64, "signal 64"),
    ],
)
def test_ends_are_put_in_words(code: int, words: str) -> None:
    assert words in describe_end(code) or "SIGRTMAX" in describe_end(code)
