"""A slot of this worker in another worker's gang: takes a seat, says where it is, runs one program, ends with the gang.

Everything it is told and says goes through the seat's row. It ends its program when the gang is over, which a lost
leader's gang is when its lease has ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from services.worker.cluster import FIRST_WORD_SECONDS, GONE_SECONDS, SILENCE_SECONDS
from services.worker.members import Ports, own_address
from services.worker.preloader import Preloader, Trainer
from services.worker.protocol import EVENT, ClusterTask, Failed, RunDir, TrainingRequest, TrialFacts
from services.worker.request import training_request
from services.worker.supervision import Lines
from shared.errors import InvalidInput, ModelyardError, NotFound, StaleClaim, Unavailable
from shared.job_queue import JobQueue
from shared.settings import Settings
from shared.specs import parse_job
from shared.store import GangState, SeatClaim, Store

TICK_SECONDS = 0.05
LOOK_SECONDS = 0.5
HASTE_SECONDS = 0.1  # between looks until the program runs
RENEW_SECONDS = 2.0
FILES_SECONDS = 10.0  # a network's file system may show a new file late
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seats:
    """Takes seats for one worker's slots. Thread-safe: each call of ``serve`` has its own seat."""

    settings: Settings
    worker_id: str
    store: Store
    preloader: Preloader
    queue: JobQueue
    stopping: threading.Event
    gpus: Callable[[], Sequence[str]]
    queues: Sequence[str]

    def serve(self, *, instead_of: str | None = None) -> bool:
        """Sit in the gangs that have a seat for this worker, one after the other. False: there was none.

        Args:
            instead_of: the job on whose account this slot was woken; if another gang needs the slot, somebody else is.

        Raises:
            Unavailable: the store does not answer.
        """
        served = False
        while not self.stopping.is_set():
            seat = self.store.gangs.take(
                self.worker_id, queues=self.queues, lease_seconds=self.settings.lease_seconds
            )
            if seat is None:
                break
            if instead_of is not None and instead_of != seat.job_id and not served:
                with contextlib.suppress(Unavailable, NotFound):
                    self.queue.send(instead_of, self.store.jobs.get(instead_of).queue)
            served = True
            log.info("%s: takes the seat %s", seat.job_id, seat.name)
            ended = _Holder(self, seat).run()
            log.info("%s: leaves the seat %s: %s", seat.job_id, seat.name, ended)
        return served


class _Holder:
    def __init__(self, parts: Seats, seat: SeatClaim) -> None:
        self.parts, self.seat = parts, seat
        self.store, self.settings = parts.store, parts.settings
        self.ports = Ports(parts.settings.cluster_ports)
        self.said: dict[str, Any] = {}
        self.unsaid = False  # the store has not heard the latest
        self.request: TrainingRequest | None = None
        self.log_file = RunDir(parts.settings.paths.runs).log_of(seat.name)
        self.trainer: Trainer | None = None
        self.lines = Lines()
        self.start = 0
        self.started = 0.0
        self.heard: float | None = None
        self.renewed = time.monotonic()
        self.leave_by: float | None = None

    def run(self) -> str:
        """Sit until the gang is over, or needed elsewhere; returns why it left, for the log."""
        try:
            try:
                with self._renewing():
                    self._come()
            except (ModelyardError, OSError) as error:
                if isinstance(error, StaleClaim | Unavailable):
                    raise
                log.warning("%s: %s", self.seat.job_id, error)
                self._say(failed=_failure(error))
            return self._stay()
        except StaleClaim:
            return "the gang is over"
        except Unavailable as error:
            return error.message
        finally:
            if self.trainer is not None:
                _end(self.trainer)
                self._remove_files()
            self.ports.release()
            with contextlib.suppress(ModelyardError):
                if not self.store.gangs.leave(self.seat):
                    self.store.gangs.depart(self.seat)

    @contextlib.contextmanager
    def _renewing(self) -> Iterator[None]:
        """Files may be slow, and a worker that has just been started still looks for its GPUs."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._renew_seconds):
                try:
                    self.store.gangs.renew(self.seat, self.settings.lease_seconds)
                except Unavailable:
                    continue
                except ModelyardError:
                    return  # who comes finds out itself

        thread = threading.Thread(target=renew, name=f"seat-{self.seat.job_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @property
    def _renew_seconds(self) -> float:
        return min(RENEW_SECONDS, self.settings.heartbeat_seconds)

    def _come(self) -> None:
        job = self.store.jobs.get(self.seat.job_id)
        run_dir = RunDir(self.settings.paths.runs / (job.run_dir or job.id))
        self.log_file = run_dir.log_of(self.seat.name)
        self._see_files(run_dir)
        request = training_request(
            job, parse_job(job.spec), self.seat.attempt, run_dir, self.store, self.settings
        )
        host, gpus = own_address(self.settings), list(self.parts.gpus())
        (port,) = self.ports.take(1)
        self.ports.listen()  # for the leader to try
        self.request = request
        self.store.gangs.announce(self.seat, host=host, port=port, gpus=gpus, said={})

    def _see_files(self, run_dir: RunDir) -> None:
        deadline = time.monotonic() + FILES_SECONDS
        while not run_dir.gang_flag(self.seat.gang_token).exists():
            self.store.gangs.look(self.seat)
            if time.monotonic() > deadline:
                raise InvalidInput(
                    f"the run's folder {run_dir.root} on its disk is not the one that the job's leader writes to.",
                    code="files_not_shared",
                    hint="All workers must share the home folder (MODELYARD_HOME), by a volume or a network's file "
                    "system.",
                )
            time.sleep(HASTE_SECONDS)
        try:
            self.log_file.touch()
        except OSError as error:
            raise InvalidInput(
                f"it can't write to the run's folder: {error}",
                code="files_not_shared",
                hint="All workers must be able to write to the home folder: see whose it is.",
            ) from error

    def _stay(self) -> str:
        looked = float("-inf")
        while True:
            now = time.monotonic()
            if now >= looked + (LOOK_SECONDS if self.trainer is not None else HASTE_SECONDS):
                looked = now
                with contextlib.suppress(Unavailable):  # no reason to stop a training
                    if (why := self._look()) is not None:
                        return why
            if self.trainer is not None:
                self._listen(self.trainer)
            if self.leave_by is not None and now > self.leave_by:
                return "the worker stops"
            time.sleep(TICK_SECONDS)

    def _look(self) -> str | None:
        """One look at the gang. Returns why to leave, if there is a reason."""
        gangs = self.store.gangs
        view = gangs.look(self.seat)
        now = time.monotonic()
        if now >= self.renewed + self._renew_seconds:
            gangs.renew(self.seat, self.settings.lease_seconds)
            self.renewed = now
        draining = self.store.workers.draining(self.seat.worker_id)
        stops = self.parts.stopping.is_set() or draining == "now"
        if view.state is GangState.ASSEMBLING:
            if (stops or draining) and gangs.leave(self.seat):
                return "the worker takes no more jobs"
            first = gangs.wanted(self.seat.worker_id, queues=self.parts.queues, before=self.seat.job_id)
            if first is not None and gangs.leave(self.seat):
                return f"{first} is older"
        elif stops and self.leave_by is None:
            self.leave_by = now + self.settings.grace_seconds
            self._say(leaving=True)
        if view.orders.get("start", 0) > self.start:
            self._obey(view.orders)
        if self.unsaid:
            gangs.say(self.seat, self.said)
            self.unsaid = False
        return None

    def _obey(self, orders: dict[str, Any]) -> None:
        if self.request is None:
            return  # it has said why it can't
        if self.trainer is not None:
            _end(self.trainer)
        if self.start == 0:
            self.ports.rest()
        start, trial = int(orders["start"]), orders.get("trial")
        self.request = self.request.model_copy(
            update={
                "cluster": ClusterTask.model_validate(orders["task"]),
                "trial": TrialFacts.model_validate(trial) if trial is not None else None,
            }
        )
        self.start, self.started, self.heard = start, time.monotonic(), None
        self.lines = Lines()
        self.said = {"start": start, **({"leaving": True} if self.leave_by is not None else {})}
        try:
            self.trainer = self.parts.preloader.start(self.request, self.log_file)
        except OSError as error:
            self._say(failed=_failure(error), exit_code=1)
            return
        os.set_blocking(self.trainer.events, False)
        self._say(pid=self.trainer.pid)

    def _listen(self, trainer: Trainer) -> None:
        code = trainer.poll()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(trainer.events, 1 << 16):
                self.heard = time.monotonic()
                for line in self.lines.feed(data):
                    with contextlib.suppress(ValidationError):
                        event = EVENT.validate_json(line)
                        if isinstance(event, Failed):
                            self._say(failed=event.model_dump(exclude={"event"}))
        if self.heard is not None:
            self._say(alive=True)
        if code is not None:
            self._say(exit_code=code)
        elif self._is_silent() and not self.said.get("silent"):
            trainer.kill()
            self._say(silent=True)

    def _is_silent(self) -> bool:
        now = time.monotonic()
        if self.heard is None:
            return now > self.started + FIRST_WORD_SECONDS
        return now > self.heard + SILENCE_SECONDS

    def _remove_files(self) -> None:
        request = self.request
        if request is not None and not request.is_chief:  # the chief's are the run's
            shutil.rmtree(request.files_dir, ignore_errors=True)

    def _say(self, **facts: Any) -> None:
        if any(self.said.get(key) != value for key, value in facts.items()):
            self.said = {**self.said, **facts}
            self.unsaid = True


def _end(trainer: Trainer) -> None:
    """Whoever comes next needs its memory and GPUs."""
    trainer.kill()
    deadline = time.monotonic() + GONE_SECONDS
    while trainer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    trainer.close()


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, ModelyardError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    return {"code": "internal", "message": f"{type(error).__name__}: {error}", "hint": None}
