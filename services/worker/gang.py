"""A gang as its leader sees it: other workers' slots are awaited, and their programs look like members started here.

The rules are in docs/adr/0022; what others do about it in ``gang_seat``; the store keeps who sits where.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from services.worker.cluster import MemberProgram, Starter
from services.worker.members import Place, own_address, seats, share_gpus, slot_seats
from services.worker.protocol import EVENT, Alive, ClusterTask, Failed, RunDir, TrainingRequest, TrialFacts
from services.worker.supervision import StopReason
from shared.errors import InvalidInput, ModelyardError, StaleClaim, Unavailable
from shared.job_queue import JobQueue
from shared.jobs import Claim, Job
from shared.settings import Settings
from shared.specs import MultiWorkerMirroredStrategy, ParameterServerStrategy
from shared.store import SeatState, Store

LOOK_SECONDS = 0.5
HASTE_SECONDS = 0.1  # between looks while somebody waits for an answer
WAKE_SECONDS = 2.0
ANNOUNCE_SECONDS = 120.0  # a worker that has just been started may look for its GPUs as long
CONNECT_SECONDS = 3.0
LOST_SECONDS = 10.0  # without a renewal, of which there is one every two seconds
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 10.0, 300.0
MOST_DOUBLINGS = 5  # of the time that a slot waits for others
WorkersStrategy = MultiWorkerMirroredStrategy | ParameterServerStrategy
log = logging.getLogger(__name__)


class StandDown(Exception):
    """Others did not come, or go first: the job waits on the queue rather than in this slot."""

    def __init__(self, why: str, *, pause_seconds: float = 0.0, tried: bool = False) -> None:
        super().__init__(why)
        self.pause_seconds, self.tried = pause_seconds, tried


class StoppedWaiting(Exception):
    """The job was cancelled or lost while it waited."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Gang:
    """One attempt's gang. Not thread-safe: belongs to one supervisor."""

    def __init__(
        self,
        store: Store,
        claim: Claim,
        job: Job,
        strategy: WorkersStrategy,
        *,
        settings: Settings,
        run_dir: RunDir,
        gpus: Sequence[str],
        queue: JobQueue | None,
        queues: Sequence[str],
    ) -> None:
        self.host = own_address(settings)
        self.gpus = list(gpus)  # of this worker, as many as every member has once assembled
        self.leaving = False  # a member's worker was told to stop
        self._store, self._claim, self._job = store, claim, job
        self._strategy, self._settings = strategy, settings
        self._flag = run_dir.gang_flag(claim.token)
        self._queue, self._queues = queue, queues
        self._remotes: dict[str, Remote] = {}
        self._starts: dict[str, int] = {}
        self._places: dict[str, Place] = {}
        self._looked = self._woken = float("-inf")
        self.waited = False  # others were asked to come
        self._ended = False

    def assemble(
        self, stop_reason: Callable[[], StopReason | None], note: Callable[[int, int], None]
    ) -> dict[str, Place] | None:
        """Wait until all workers are there. None: the job runs on this worker alone.

        Args:
            stop_reason: asked all the time.
            note: told (workers that are there, workers needed) when that changes.

        Raises:
            StandDown, StoppedWaiting: see there.
            StaleClaim: the job is somebody else's.
            ModelyardError: a member can't do its part, or can't be reached; says why.
        """
        placement, needed = self._strategy.placement, self._strategy.workers
        if placement == "one_worker" or needed < 2:
            return None
        there = 1 + self._store.gangs.others_alive(self._claim.worker_id, self._job.queue)
        if there < needed and placement == "auto":
            return None
        self._flag.touch()
        names = slot_seats(self._strategy)
        tries = self._store.gangs.open(self._claim, names, queue=self._job.queue, priority=self._job.priority)
        self.waited = True
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2.0 ** min(tries, 30))
        if there < needed:
            raise StandDown(f"{there} of {needed} workers are alive", pause_seconds=pause, tried=True)
        began, shown = time.monotonic(), 0
        end = began + self._patience(tries)
        while True:
            _stop_for(stop_reason())
            with contextlib.suppress(Unavailable):
                states = self._store.gangs.seats(self._claim)
                if self._complete(states):
                    return self._places
                here = 1 + sum(state.worker_id is not None for state in states)
                if here != shown:
                    note(here, needed)
                    shown = here
                if time.monotonic() > end + (ANNOUNCE_SECONDS if here == needed else 0):
                    if placement == "auto" and self._fits_here():
                        log.info("%s: %d of %d workers came; it runs on this one", self._job.id, here, needed)
                        self._forget()
                        return None
                    raise StandDown(f"{here} of {needed} workers came", pause_seconds=pause, tried=True)
                self._give_way()
                self._wake(needed - here)
            hasty = shown == needed or time.monotonic() < began + 2
            time.sleep(HASTE_SECONDS if hasty else LOOK_SECONDS)

    def starter(self, preloader: Starter) -> Starter:
        """Starts members here by ``preloader``, and those elsewhere by telling their holders."""
        return _GangStarter(self, preloader)

    def look(self) -> None:
        """Hear what holders have to say, if it is time."""
        pause = HASTE_SECONDS if self._ended else LOOK_SECONDS
        if time.monotonic() < self._looked + pause:
            return
        self._looked = time.monotonic()
        try:
            states = {state.name: state for state in self._store.gangs.seats(self._claim)}
        except (Unavailable, StaleClaim):
            return  # the lease's keeper finds out what is to be done about it
        for name, remote in self._remotes.items():
            remote.hear(states.get(name))
        self.leaving = self.leaving or any(state.said.get("leaving") for state in states.values())

    def end(self) -> None:
        """Have all members ended; they take a moment to hear of it."""
        if self.waited and not self._ended:
            with contextlib.suppress(ModelyardError):
                self._store.gangs.end(self._claim)
                self._ended = True

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Nothing of it is left, but the memory of one that stands down."""
        if kind is None or not issubclass(kind, StandDown):
            self._forget()
        self._flag.unlink(missing_ok=True)

    def _forget(self) -> None:
        if self.waited:
            with contextlib.suppress(ModelyardError):
                self._store.gangs.forget(self._claim)

    def start_elsewhere(self, name: str, task: ClusterTask, trial: TrialFacts | None) -> Remote:
        """Tell a seat's holder to start its program, or to start it again.

        Raises:
            StaleClaim, Unavailable: it could not be told.
        """
        start = self._starts[name] = self._starts.get(name, 0) + 1
        orders = {
            "start": start,
            "task": task.model_dump(),
            "trial": trial.model_dump(mode="json") if trial is not None else None,
        }
        self._store.gangs.order(self._claim, name, orders)
        remote = self._remotes[name] = Remote(self, self._places[name].worker, start)
        self._looked = float("-inf")
        return remote

    def _patience(self, tries: int) -> float:
        """Seconds to wait for others: longer each time, but not past the job's deadline."""
        patience = self._settings.gang_wait_seconds * 2.0 ** min(tries, MOST_DOUBLINGS)
        end = queued_until(self._job)
        return patience if end is None else min(patience, max(0.0, end - self._job.updated_at))

    def _give_way(self) -> None:
        me = self._claim.worker_id
        if self._store.workers.draining(me):
            raise StandDown("the worker takes no more jobs")
        first = self._store.gangs.wanted(me, queues=self._queues, before=self._job.id)
        if first is not None:
            raise StandDown(f"{first} is older and needs this worker")

    def _complete(self, states: Sequence[SeatState]) -> bool:
        for state in states:
            if failed := state.said.get("failed"):
                raise InvalidInput(
                    f"{state.worker_id}, which was to run {state.name}: {failed['message']}",
                    code=failed["code"],
                    hint=failed.get("hint"),
                )
        if any(state.lease_left is not None and state.lease_left < 0 for state in states):
            self._store.gangs.reopen(self._claim)
            return False
        if not all(state.announced for state in states):
            return False
        self._check_addresses(states)
        shares = self._shares(states)
        self._connect(states)
        if not self._store.gangs.start(self._claim, {state.name: {} for state in states}):
            return False
        self._places = {
            state.name: Place(state.worker_id or "", state.host or "", state.port or 0, share)
            for state, share in zip(states, shares, strict=True)
        }
        return True

    def _shares(self, states: Sequence[SeatState]) -> list[str | None]:
        """CUDA_VISIBLE_DEVICES of each seat: equally many GPUs, or none at all."""
        counts = [len(self.gpus), *(len(state.gpus) for state in states)]
        if not any(counts):
            return [None] * len(states)
        if not all(counts):
            names = [self._claim.worker_id, *(str(state.worker_id) for state in states)]
            without = ", ".join(name for name, count in zip(names, counts, strict=True) if not count)
            raise InvalidInput(
                f"Some of the job's workers have GPUs, and these have none: {without}.",
                code="device_unavailable",
                field="strategy.placement",
                hint="Give workers with and without GPUs queues of their own.",
            )
        self.gpus = self.gpus[: min(counts)]
        return [",".join(state.gpus[: min(counts)]) for state in states]

    def _check_addresses(self, states: Sequence[SeatState]) -> None:
        hosts = {self._claim.worker_id: self.host} | {
            str(state.worker_id): str(state.host) for state in states
        }
        local = {worker: host for worker, host in hosts.items() if _is_loopback(host)}
        if local and len(local) < len(hosts):
            worker, host = next(iter(local.items()))
            raise InvalidInput(
                f"{worker} says that it is to be reached at {host}, where only its own machine reaches it.",
                code="worker_unreachable",
                hint="Set MODELYARD_ADVERTISE_HOST there to a name or address that the other workers can reach.",
            )

    def _connect(self, states: Sequence[SeatState]) -> None:
        """TensorFlow would wait for minutes, and not say for whom."""
        for state in states:
            try:
                socket.create_connection((str(state.host), state.port or 0), CONNECT_SECONDS).close()
            except OSError as error:
                raise InvalidInput(
                    f"{self._claim.worker_id} can't connect to {state.worker_id} at {state.host}:{state.port} "
                    f"({error}).",
                    code="worker_unreachable",
                    hint="Let workers connect to each other at all ports, or at those of MODELYARD_CLUSTER_PORTS; "
                    "MODELYARD_ADVERTISE_HOST is the address that a worker is told to be reached at.",
                ) from error

    def _fits_here(self) -> bool:
        try:
            share_gpus(seats(self._strategy), self.gpus)
        except InvalidInput:
            return False
        return True

    def _wake(self, open_seats: int) -> None:
        """One message for each open seat; again when none of them is left on the queue: others may have read them."""
        if self._queue is None or open_seats == 0 or time.monotonic() < self._woken + WAKE_SECONDS:
            return
        again = self._woken > 0
        self._woken = time.monotonic()
        if not again or self._queue.depth(self._job.queue) == 0:
            for _ in range(open_seats):
                self._queue.send(self._job.id, self._job.queue)


class Remote:
    """A program that another worker runs, as ``cluster.MemberProgram``. ``events`` has what its holder passes on."""

    warm = True

    def __init__(self, gang: Gang, worker: str, start: int) -> None:
        self.pid = 0
        self.silent = False
        self.events, self._writer = os.pipe()
        self._gang, self._worker, self._start = gang, worker, start
        self._code: int | None = None
        self._said_failed = self._closed = self._lost = False
        self._renewals = -1
        self._renewed = time.monotonic()

    @property
    def lost_with(self) -> str | None:
        """The worker, if it has not renewed its seat for long, or did not answer to the gang's end."""
        late = self._code is None and time.monotonic() > self._renewed + LOST_SECONDS
        return self._worker if self._lost or (late and not self._closed) else None

    def poll(self) -> int | None:
        """See ``MemberProgram``."""
        self._gang.look()
        return self._code

    def terminate(self) -> None:
        """Nothing: the chief tells the others."""

    def kill(self) -> None:
        """The cluster is at its end whenever one of these is killed."""
        self._gang.end()

    def close(self) -> None:
        """Forget it; who has not answered by now is not there."""
        if not self._closed:
            self._lost = self._lost or self._code is None
            self._closed = True
            os.close(self._writer)
            os.close(self.events)

    def hear(self, state: SeatState | None) -> None:
        """Take in what the seat says now; None: its holder has ended the program and left."""
        if self._closed:
            return
        if state is None:
            self._code = -9 if self._code is None else self._code
            return
        if state.lease_left is not None and state.lease_left < 0:
            self._lost = self.silent = True
        said = state.said if state.said.get("start") == self._start else {}
        if state.renewals != self._renewals:
            self._renewals, self._renewed = state.renewals, time.monotonic()
            if said.get("alive"):
                self._write(Alive())
        self.pid = int(said.get("pid", self.pid))
        if (failed := said.get("failed")) and not self._said_failed:
            self._said_failed = True
            self._write(Failed(**failed))
        self.silent = self.silent or bool(said.get("silent"))
        if "exit_code" in said:
            self._code = int(said["exit_code"])

    def _write(self, event: Alive | Failed) -> None:
        os.write(self._writer, EVENT.dump_json(event) + b"\n")


class _GangStarter:
    def __init__(self, gang: Gang, preloader: Starter) -> None:
        self._gang, self._preloader = gang, preloader

    def start(self, request: TrainingRequest, log_file: Path) -> MemberProgram:
        task = request.cluster
        if task is None or f"{task.task_type}-{task.task_index}" not in self._gang._places:
            return self._preloader.start(request, log_file)
        return self._gang.start_elsewhere(f"{task.task_type}-{task.task_index}", task, request.trial)


def queued_until(job: Job) -> float | None:
    """Until when a job that was just claimed may wait for workers, by its deadline.queue_seconds; None: for ever."""
    seconds = (job.spec.get("deadline") or {}).get("queue_seconds")
    if seconds is None:
        return None
    ends: list[float] = [attempt.finished_at for attempt in job.attempts if attempt.finished_at is not None]
    return max([job.created_at, *ends]) + float(seconds)


def _stop_for(reason: StopReason | None) -> None:
    if reason is StopReason.SHUTDOWN:
        raise StandDown("the worker was told to stop")
    if reason is not None:
        raise StoppedWaiting(reason)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
