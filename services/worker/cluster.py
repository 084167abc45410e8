"""A job's cluster of training programs: started together, watched together, ended together (docs/adr/0015).

To its supervisor a cluster looks like one program, its chief. What happens to the others is dealt with in ``poll``,
which the supervisor calls ten times a second:

    a worker of multi_worker_mirrored ends or falls silent   all are ended; the attempt has failed, and the next one
                                                             begins at the last checkpoint
    a worker of parameter_server ends or falls silent        it alone is started again at the same address
    a parameter server ends or falls silent                  its variables are gone: all are ended
    the chief ends                                           all are ended
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from services.worker import causes
from services.worker.members import LOCALHOST, Place, Ports, Seat, share_gpus, tasks
from services.worker.protocol import (
    EVENT,
    MEMBER_LOST,
    PORT_TAKEN,
    ClusterTask,
    Failed,
    Noted,
    RunDir,
    TrainingEvent,
    TrainingRequest,
    Warned,
)
from services.worker.supervision import Ending, Lines
from shared.jobs import JobError

SILENCE_SECONDS = 20.0  # members say that they are alive every second
FIRST_WORD_SECONDS = 120.0  # a fresh start imports TensorFlow first
CHIEF_SPEAKS_SECONDS = 5.0  # from a member's failure to the chief's own words about it
ASK_AGAIN_SECONDS = 2.0
GONE_SECONDS = 5.0  # a killed process gives its memory back first
MAX_RESTARTS = 10  # of single workers, in one attempt
RESTART_PAUSE_SECONDS = 0.5


class MemberProgram(Protocol):
    """A trainer, here or elsewhere."""

    events: int
    warm: bool

    @property
    def pid(self) -> int:
        """Its process id; 0 while it is not known."""

    @property
    def silent(self) -> bool:
        """Whether somebody ended it because it stopped answering."""

    @property
    def lost_with(self) -> str | None:
        """The worker that ran it, if that is gone."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def terminate(self) -> None:
        """Ask for a checkpoint and an end."""

    def kill(self) -> None:
        """End it and all it started, now."""

    def close(self) -> None:
        """Make sure that nothing of it is left."""


class Starter(Protocol):
    """What a preloader does."""

    def start(self, request: TrainingRequest, log_file: Path) -> MemberProgram:
        """Start one program."""


@dataclass
class Member:
    """One program of a cluster, and what is known about it."""

    seat: Seat
    task: ClusterTask
    request: TrainingRequest
    port: int
    log_file: Path
    trainer: MemberProgram
    lines: Lines
    started: float
    heard: float | None = None  # when it last said something
    failed: Failed | None = None
    restarts: int = 0

    def silent_for(self) -> float:
        """Seconds over the time that it may say nothing; negative while all is well."""
        now = time.monotonic()
        if self.heard is None:
            return now - self.started - FIRST_WORD_SECONDS
        return now - self.heard - SILENCE_SECONDS


@dataclass(frozen=True)
class Loss:
    """The member whose end ended the cluster."""

    name: str
    exit_code: int
    silent: bool
    log_file: Path
    failed: Failed | None


class Cluster:
    """Started by ``start``. Not thread-safe: belongs to one supervisor."""

    def __init__(
        self,
        starter: Starter,
        request: TrainingRequest,
        members: Sequence[Seat],
        gpus: Sequence[str],
        report: Callable[[TrainingEvent], None],
        *,
        host: str = LOCALHOST,
        among: str | None = None,
        elsewhere: Mapping[str, Place] | None = None,
        worker: str | None = None,
    ) -> None:
        """Start all members.

        Args:
            starter: starts one program.
            request: of the job; each member gets it with a place of its own.
            members: as ``members.seats`` gives them, the chief first.
            gpus: CUDA's names of this machine's GPUs.
            report: told about members that are started again, and of facts for the job's ``run``.
            host: where those members listen that run here.
            among: the range of their ports; see ``Ports``.
            elsewhere: members that run on other workers, by name.
            worker: this worker's id, if some do.

        Raises:
            InvalidInput: too few GPUs.
            OSError: no ports, or no processes.
        """
        self._starter, self._report = starter, report
        self._run_dir = RunDir(request.run_dir)
        self._members_dir = request.members_dir
        self._ports = Ports(among)
        self._host, self._worker, self._elsewhere = host, worker, elsewhere or {}
        self._shown: list[int] = []  # process ids that the job shows
        self._members: list[Member] = []
        self._loss: Loss | None = None
        self._chief_gone = False
        self._speak_until: float | None = None
        self._asked: float | None = None  # when the chief was last asked to end
        self._noise: Failed | None = None
        here = [seat for seat in members if seat.name not in self._elsewhere]
        shares = share_gpus(here, gpus)
        try:
            ports = self._ports.take(len(here))
            for seat, task in zip(members, tasks(members, ports, shares, host, self._elsewhere), strict=True):
                port = int(task.addresses[seat.task_type][seat.index].rpartition(":")[2])
                self._members.append(self._started(seat, task, request, port))
        except BaseException:
            self.close()
            raise
        self._chief, *self._others = self._members
        self.pid, self.events, self.warm = (
            self._chief.trainer.pid,
            self._chief.trainer.events,
            self._chief.trainer.warm,
        )
        self._note()

    def poll(self) -> int | None:
        """See to all members. The cluster's exit code once its chief has ended: of the member whose end ended it, or
        else the chief's own.
        """
        chief_code = self._chief.trainer.poll()
        if self._loss is None and not self._chief_gone:
            self._see_to_others(chief_code)
            if self._shown != self._pids():
                self._note()
        if chief_code is None:
            self._ask_again()
            return None
        if not self._chief_gone:
            self._chief_gone = True
            self._end_others()
        return self._loss.exit_code if self._loss is not None else chief_code

    def terminate(self) -> None:
        """Ask the chief for a checkpoint and an end; it tells the others when they agree on their next steps."""
        self._asked = time.monotonic()
        self._chief.trainer.terminate()

    def kill(self) -> None:
        """End all, now."""
        for member in self._members:
            member.trainer.kill()

    def close(self) -> None:
        """Make sure that nothing of it is left: the next attempt needs the memory and the GPUs."""
        self.kill()
        deadline = time.monotonic() + GONE_SECONDS
        while time.monotonic() < deadline and any(one.trainer.poll() is None for one in self._members):
            time.sleep(0.01)
        for member in self._members:
            member.trainer.close()
        shutil.rmtree(self._members_dir, ignore_errors=True)
        self._ports.release()

    def judged(self, ending: Ending) -> Ending:
        """What the supervisor saw of the chief, seen with what happened to the others: a failure that only says that
        somebody else is gone is no last word, and one that a member told in words is.
        """
        told = self._loss.failed if self._loss is not None else None
        word = ending.last_word
        if isinstance(word, Failed) and _is_noise(word):
            self._noise, word = word, None
        if word is None and ending.stopped_for is None and told is not None and not _is_noise(told):
            word = told
        return dataclasses.replace(ending, last_word=word)

    def crash(self, ending: Ending, *, oom_before: int) -> JobError:
        """The error of a cluster that ended without a failure in words; names the member that was lost."""
        loss = self._loss
        gone = [member for member in self._others if member.trainer.lost_with is not None]
        if gone and (loss is None or loss.silent or _is_noise(loss.failed)):
            names = ", ".join(f"{member.trainer.lost_with} ({member.seat.name})" for member in gone)
            return JobError(
                "worker_lost",
                f"Of the workers that the job ran on, these were not heard of any more: {names}.",
                "They were killed, or lost their machine, the network or the database. See their logs.",
                causes.log_tail(gone[0].log_file),
            )
        if loss is not None and loss.silent:
            return JobError(
                MEMBER_LOST,
                f"{loss.name} of the cluster stopped answering and was ended.",
                "The machine may be out of memory or overloaded; the end of its log is in 'detail'.",
                causes.log_tail(loss.log_file),
            )
        noise = self._noise if loss is None else loss.failed
        if noise is not None:
            log_file = self._run_dir.log if loss is None else loss.log_file
            return JobError(noise.code, noise.message, noise.hint, causes.log_tail(log_file))
        if loss is None:
            return causes.crash(ending.exit_code, oom_before=oom_before, log_file=self._run_dir.log)
        error = causes.crash(loss.exit_code, oom_before=oom_before, log_file=loss.log_file)
        return dataclasses.replace(error, message=f"{loss.name} of the cluster was lost. {error.message}")

    @property
    def port_was_taken(self) -> bool:
        """After ``judged``: whether it ended because somebody took a member's port first. It may be started anew."""
        failed = self._noise if self._loss is None else self._loss.failed
        return failed is not None and failed.code == PORT_TAKEN

    def _started(self, seat: Seat, task: ClusterTask, request: TrainingRequest, port: int) -> Member:
        place = request.model_copy(update={"cluster": task})
        log_file = self._run_dir.log if task.is_chief else self._run_dir.log_of(seat.name)
        trainer = self._starter.start(place, log_file)
        os.set_blocking(trainer.events, False)
        return Member(seat, task, place, port, log_file, trainer, Lines(), time.monotonic())

    def _ask_again(self) -> None:
        """While it joins the others, TensorFlow takes the signal for itself and does nothing about it."""
        if self._asked is not None and time.monotonic() > self._asked + ASK_AGAIN_SECONDS:
            self.terminate()

    def _see_to_others(self, chief_code: int | None) -> None:
        for member in self._others:
            self._listen(member)
        bystanders: list[tuple[Member, int | None]] = []
        for index, member in enumerate(self._others):
            silent = member.silent_for() > 0 or member.trainer.silent
            if silent:
                member.trainer.kill()
            code = member.trainer.poll()
            if code is None and not silent:
                continue
            if self._may_restart(member, chief_code):
                self._others[index] = self._restarted(member, code, silent=silent)
            elif _is_noise(member.failed) and not _says(member.failed, PORT_TAKEN):
                bystanders.append((member, code))
            elif not self._waits_for_the_chief(member, chief_code):
                self._lose(member, code, silent=silent)
                return
        for member, code in bystanders if chief_code is None else ():  # who is gone will show in a moment
            if not self._waits_for_the_chief(member, chief_code):
                self._lose(member, code, silent=False)
                return

    def _listen(self, member: Member) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(member.trainer.events, 1 << 16):
                member.heard = time.monotonic()
                for line in member.lines.feed(data):
                    with contextlib.suppress(ValidationError):
                        event = EVENT.validate_json(line)
                        if isinstance(event, Failed):
                            member.failed = event

    def _may_restart(self, member: Member, chief_code: int | None) -> bool:
        """Workers hold nothing that is not elsewhere; the chief gives what one was doing to another."""
        alone = member.seat.task_type == "worker" and "ps" in member.task.addresses
        spent = sum(one.restarts for one in self._others) >= MAX_RESTARTS
        there = member.trainer.lost_with is None  # elsewhere is another address, which the others can't learn
        return alone and there and not spent and self._asked is None and chief_code is None

    def _restarted(self, member: Member, code: int | None, *, silent: bool) -> Member:
        if time.monotonic() < member.started + RESTART_PAUSE_SECONDS * member.restarts:
            return member  # one that dies at once is not started ten times a second
        member.trainer.close()
        fresh = self._started(member.seat, member.task, member.request, member.port)
        fresh.restarts = member.restarts + 1
        self._members[self._members.index(member)] = fresh
        why = "stopped answering" if silent else _in_words(code, member.failed)
        message = f"{member.seat.name} of the cluster {why}; it was started again at port {member.port}."
        self._report(Warned(code="member_restarted", message=message))
        self._note()
        return fresh

    def _waits_for_the_chief(self, member: Member, chief_code: int | None) -> bool:
        """What fails on one member mostly fails on the chief too, whose words are the job's."""
        if member.failed is None or _says(member.failed, PORT_TAKEN) or chief_code is not None:
            return False
        now = time.monotonic()
        if self._speak_until is None:
            self._speak_until = now + CHIEF_SPEAKS_SECONDS
        return now < self._speak_until

    def _lose(self, member: Member, code: int | None, *, silent: bool) -> None:
        self._loss = Loss(
            member.seat.name,
            code if code is not None else -9,
            silent,
            member.log_file,
            member.failed,
        )
        self.kill()

    def _end_others(self) -> None:
        for member in self._others:
            member.trainer.kill()

    def _pids(self) -> list[int]:
        return [member.trainer.pid for member in self._members]

    def _note(self) -> None:
        self._shown = self._pids()
        facts = [
            {
                "name": member.seat.name,
                "chief": member.task.is_chief,
                "pid": member.trainer.pid,
                "port": member.port,
                "log": member.log_file.name,
                "gpus": member.task.visible_gpus,
                "restarts": member.restarts,
                **self._whereabouts(member),
            }
            for member in self._members
        ]
        restarts = sum(member.restarts for member in self._members)
        self._report(Noted(data={"cluster": {"members": facts, "restarts": restarts}}))

    def _whereabouts(self, member: Member) -> dict[str, str]:
        if self._worker is None:
            return {}
        place = self._elsewhere.get(member.seat.name)
        return {
            "worker": place.worker if place else self._worker,
            "host": place.host if place else self._host,
        }


def _says(word: TrainingEvent | None, code: str) -> bool:
    return isinstance(word, Failed) and word.code == code


def _is_noise(word: TrainingEvent | None) -> bool:
    """A failure that says nothing about the job: another member is gone, or a port."""
    return _says(word, MEMBER_LOST) or _says(word, PORT_TAKEN)


def _in_words(code: int | None, failed: Failed | None) -> str:
    if failed is not None:
        return f"failed ({failed.message})"
    return f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
