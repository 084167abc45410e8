"""Starts the parts, starts again those that die, and stops all of them in order.

One thread, which looks at everything some ten times a second. Only this thread forks: the kernel ties a child's life
to the thread that made it.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from modelyard.exits import Exit
from modelyard.launcher.child import Child, describe_end, last_words
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.journal import Journal
from modelyard.launcher.news import News
from modelyard.launcher.parts import Part, Plan

TICK_SECONDS = 0.1
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a part that lived so long starts with a clean record
LOOP_FAILURES = 3  # deaths in a row that make a crash loop, and end a start
SLOW_START_SECONDS = 60.0


@dataclass
class Watched:
    """A part, the process that plays it now, and its record."""

    part: Part
    child: Child | None = None
    is_ready: bool = False
    was_ready: bool = False
    failures: int = 0
    retry_at: float = 0.0
    slow_told: bool = False
    probe_at: float = field(default=0.0)
    news: News | None = None


class Supervisor:
    """Owns every child. ``on_change`` is told when the set of processes or their readiness changed."""

    def __init__(
        self, plan: Plan, journal: Journal, on_change: Callable[[dict[str, int], bool], None]
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._on_change = on_change
        self._watched: dict[str, Watched] = {}
        self._announced = False
        self.stop_asked = threading.Event()
        self.hurry = False  # asked twice: no more patience

    def run(self) -> None:
        """Start everything, then watch until ``stop_asked``; always leaves with every child ended.

        Raises:
            LaunchError: an essential part could not be started.
        """
        try:
            for part in self._plan.first:
                self._start(Watched(part))
            self._migrate()
            for part in () if self.stop_asked.is_set() else self._plan.then:
                self._start(Watched(part))
            while not self.stop_asked.is_set():
                for watched in list(self._watched.values()):
                    self._look_at(watched)
                    self._tell_news(watched)
                self._announce_once()
                self.stop_asked.wait(TICK_SECONDS)
        finally:
            self._stop_all()

    def _start(self, watched: Watched) -> None:
        part = watched.part
        self._watched[part.name] = watched
        log = self._plan.settings.paths.logs / f"{part.name}.log"
        watched.news = watched.news or News(log)
        try:
            watched.child = Child(part.name, part.argv, {**self._plan.env, **part.env}, log)
        except OSError as error:
            raise LaunchError(
                f"{part.name} can't be started: {error}.", exit_code=Exit.PART_FAILED, hint=None
            ) from None
        watched.is_ready = watched.slow_told = False
        watched.probe_at = 0.0
        self._changed()

    def _migrate(self) -> None:
        log = self._plan.settings.paths.logs / "store.log"
        child = Child("store", self._plan.migrate, self._plan.env, log)
        try:
            while child.ended() is None and not self.stop_asked.is_set():
                time.sleep(0.02)
        finally:
            child.kill_group()
        if child.process.wait() == 0:
            self._journal.note("store", "tables are up to date", "ok")
        elif not self.stop_asked.is_set():
            raise LaunchError(
                f"The store could not be made ready: {last_words(log)}",
                exit_code=Exit.PART_FAILED,
                hint=f"The whole log: {log}",
            )

    def _tell_news(self, watched: Watched) -> None:
        if watched.news is not None:
            for message, tone in watched.news.read():
                self._journal.note(watched.part.name, message, tone)

    def _look_at(self, watched: Watched) -> None:
        child = watched.child
        if child is None:
            if time.monotonic() >= watched.retry_at:
                self._start(watched)
            return
        code = child.ended()
        if code is not None:
            self._died(watched, child, code)
        elif not watched.is_ready and time.monotonic() >= watched.probe_at:
            self._probe(watched, child)
        elif watched.failures and child.age > STEADY_SECONDS:
            watched.failures = 0

    def _probe(self, watched: Watched, child: Child) -> None:
        if watched.part.ready(child.pid):
            watched.is_ready = watched.was_ready = True
            self._journal.note(watched.part.name, f"{watched.part.what} ({child.age:.1f} s)", "ok")
            self._changed()
            return
        watched.probe_at = time.monotonic() + (TICK_SECONDS if child.age < 10 else 1.0)
        if child.age > SLOW_START_SECONDS and not watched.slow_told:
            watched.slow_told = True
            self._journal.note(
                watched.part.name, f"still not ready after {child.age:.0f} s; log: {child.log}", "warn"
            )

    def _died(self, watched: Watched, child: Child, code: int) -> None:
        part = watched.part
        watched.failures = 1 if child.age > STEADY_SECONDS else watched.failures + 1
        report = f"{describe_end(code)} after {child.age:.1f} s: {last_words(child.log)}"
        if part.essential and not watched.was_ready and watched.failures >= LOOP_FAILURES:
            raise LaunchError(
                f"{part.name} does not start; it {report}",
                exit_code=Exit.PART_FAILED,
                hint=f"The whole log: {child.log}",
            )
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (watched.failures - 1))
        watched.child, watched.is_ready = None, False
        watched.retry_at = time.monotonic() + delay
        loop = (
            f" [{watched.failures} times in a row; log: {child.log}]"
            if watched.failures >= LOOP_FAILURES
            else ""
        )
        self._journal.note(part.name, f"{report}; starting it again in {delay:g} s{loop}", "bad")
        self._changed()

    def _announce_once(self) -> None:
        if self._announced or not self._all_ready():
            return
        self._announced = True
        url = self._plan.url
        self._journal.note("modelyard", f"is up: {url}  (docs: {url}/docs; stop with Ctrl-C)", "ok")

    def _all_ready(self) -> bool:
        return all(
            item.is_ready or (item.failures and not item.part.essential) for item in self._watched.values()
        )

    def _changed(self) -> None:
        running = {name: item.child.pid for name, item in self._watched.items() if item.child}
        everything = len(self._watched) == len(self._plan.first) + len(self._plan.then)
        self._on_change(running, everything and self._all_ready())

    def _stop_all(self) -> None:
        for part in self._plan.stop_order:
            watched = self._watched.get(part.name)
            if watched is None or watched.child is None:
                continue
            began = time.monotonic()
            code = self._stop(watched.child, part.grace)
            self._tell_news(watched)
            how = (
                f"stopped ({time.monotonic() - began:.1f} s)"
                if code in (0, -signal.SIGTERM)
                else describe_end(code)
            )
            self._journal.note(part.name, how)
            watched.child = None

    def _stop(self, child: Child, grace: float) -> int:
        child.terminate()
        deadline = time.monotonic() + grace
        while child.ended() is None and time.monotonic() < deadline and not self.hurry:
            time.sleep(0.02)
        if child.ended() is None:
            self._journal.note(
                child.name,
                f"did not stop within {grace:g} s and is ended" if not self.hurry else "is ended",
                "warn",
            )
        child.kill_group()  # what it may have left behind goes too
        return child.process.wait()
