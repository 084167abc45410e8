"""Gangs: jobs that need slots of several workers at once (docs/adr/0022).

A gang's leader is the worker that claimed the job. It opens **seats**, one for each further worker; slots of other
workers take them, each by one compare-and-set, and announce where they can be reached. When all have done so the
leader starts the gang. There is one fence, the job's claim: a gang whose token is no longer that of its running job is
over, and everybody in it finds out by asking (``GangStore.look``). A seat has a lease of its own, by which the leader
notices that a member is gone.

Who waits holds slots, so there is an order: of two gangs that are assembling, the one of higher priority, or else
the older job, goes first. A slot that waits in the other one, leader or member, moves over to it when it is of use
there (``wanted``). The first gang of all never gives way, and so ends up with every slot it can use.

Rows are gone when a gang is over. What stays while its job is queued again is how often it tried in vain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from shared.errors import StaleClaim
from shared.jobs import Claim, JobState
from shared.names import new_id
from shared.store.database import Database, json_safe
from shared.store.rows import emit, held_by, stale, state_event
from shared.store.schema import attempts, gang_seats, gangs, jobs, workers

CANDIDATES = 8  # open seats that one slot tries for before it gives up to others
ALIVE_SECONDS = 15.0  # three heartbeats of a worker


class GangState(StrEnum):
    """What a gang is doing."""

    ASSEMBLING = "assembling"  # the leader waits for members
    STARTED = "started"  # all seats are taken; nobody leaves but by ending it
    STOOD_DOWN = "stood_down"  # its job is queued again, to be tried later
    ENDED = "ended"  # members are to end their programs and depart


@dataclass(frozen=True, slots=True)
class SeatClaim:
    """A slot's right to a seat. Every write names it; it ends with the job's claim at the latest."""

    job_id: str
    name: str  # of the cluster's member, such as worker-1
    token: str
    worker_id: str
    gang_token: str  # the leader's claim
    attempt: int


@dataclass(frozen=True, slots=True)
class SeatState:
    """A seat as its leader sees it. ``renewals`` counts: it stands still when the member's worker does."""

    name: str
    worker_id: str | None  # None: open
    host: str | None  # None: not announced
    port: int | None
    gpus: tuple[str, ...]
    orders: dict[str, Any]
    said: dict[str, Any]
    renewals: int
    lease_left: float | None  # seconds

    @property
    def announced(self) -> bool:
        """Whether its member can be reached."""
        return self.worker_id is not None and self.port is not None


@dataclass(frozen=True, slots=True)
class GangView:
    """What a member sees of its gang: whether it has started, and what the leader wants of this seat."""

    state: GangState
    orders: dict[str, Any]
    leader: str


@dataclass(frozen=True, slots=True)
class GangStatus:
    """Why a job of several workers waits, or who is in it; for people.

    Attributes:
        state: None where the job was never tried.
        here: workers in it, the leader among them.
        size: workers it needs.
        waited_seconds: since it began to assemble; None while its job is queued.
        tries: how often it gave its slots back because others did not come.
        seats: name -> worker that sits there, or None.
        ahead: the job whose gang is filled first.
    """

    state: GangState
    here: int
    size: int
    waited_seconds: float | None
    tries: int
    seats: dict[str, str | None]
    ahead: str | None
    queue: str


class GangStore:
    """Gangs and their seats. All methods are thread-safe, atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # The leader's side.

    def open(self, claim: Claim, names: Sequence[str], *, queue: str, priority: int) -> int:
        """Open a seat for each of ``names``. Returns how often the gang stood down before.

        Raises:
            StaleClaim: the job is no longer this claim's.
        """
        with self._db.write() as tx:
            self._insist(tx, claim)
            now = self._db.now()
            tx.execute(delete(gang_seats).where(gang_seats.c.job_id == claim.job_id))
            values = {
                "token": claim.token,
                "attempt": claim.attempt,
                "leader": claim.worker_id,
                "state": GangState.ASSEMBLING,
                "queue": queue,
                "priority": priority,
                "size": len(names) + 1,
                "opened_at": now,
            }
            known = tx.execute(
                update(gangs).where(gangs.c.job_id == claim.job_id).values(**values).returning(gangs.c.tries)
            ).scalar_one_or_none()
            if known is None:
                tx.execute(insert(gangs).values(job_id=claim.job_id, tries=0, **values))
            self._db.insert(
                tx,
                gang_seats,
                [
                    {"job_id": claim.job_id, "number": number, "name": name, "orders": {}, "said": {}}
                    for number, name in enumerate(names)
                ],
            )
            return int(known or 0)

    def seats(self, claim: Claim) -> list[SeatState]:
        """The gang's seats in the order in which they were opened. A read.

        Raises:
            StaleClaim: the gang is no longer this claim's.
        """
        with self._db.read() as tx:
            alive = tx.execute(select(gangs.c.job_id).where(self._mine(claim))).one_or_none()
            if alive is None:
                raise StaleClaim(f"Attempt {claim.attempt} no longer holds the gang of job {claim.job_id}.")
            rows = tx.execute(
                select(gang_seats, (gang_seats.c.lease_until - self._db.now()).label("left"))
                .where(gang_seats.c.job_id == claim.job_id)
                .order_by(gang_seats.c.number)
            ).all()
        return [
            SeatState(
                name=row.name,
                worker_id=row.worker_id,
                host=row.host,
                port=row.port,
                gpus=tuple(row.gpus or ()),
                orders=row.orders,
                said=row.said,
                renewals=row.renewals,
                lease_left=row.left,
            )
            for row in rows
        ]

    def reopen(self, claim: Claim) -> int:
        """While assembling: open the seats whose lease has ended again. Returns how many."""
        with self._db.write() as tx:
            if not self._lock(tx, self._mine(claim) & (gangs.c.state == GangState.ASSEMBLING)):
                return 0
            stale = (gang_seats.c.job_id == claim.job_id) & (gang_seats.c.lease_until < self._db.now())
            return int(tx.execute(update(gang_seats).where(stale).values(**_OPEN)).rowcount)

    def start(self, claim: Claim, orders: Mapping[str, Mapping[str, Any]]) -> bool:
        """All or nothing: from now on nobody leaves. False if a seat is open, not announced, or its lease has ended.

        Args:
            claim: the leader's.
            orders: seat -> what its member is to do.

        Raises:
            StaleClaim: the gang is no longer this claim's.
        """
        with self._db.write() as tx:
            self._insist(tx, claim)
            if not self._lock(tx, self._mine(claim)):
                raise StaleClaim(f"Attempt {claim.attempt} no longer holds the gang of job {claim.job_id}.")
            here = tx.execute(
                select(func.count()).where(
                    gang_seats.c.job_id == claim.job_id,
                    gang_seats.c.port.is_not(None),
                    gang_seats.c.lease_until >= self._db.now(),
                )
            ).scalar_one()
            if here != len(orders):
                return False
            for name, order in orders.items():
                self._order(tx, claim.job_id, name, order)
            values = {"state": GangState.STARTED, "tries": 0}
            tx.execute(update(gangs).where(gangs.c.job_id == claim.job_id).values(**values))
            # waiting for others was no part of the run
            tx.execute(
                update(attempts)
                .where(attempts.c.job_id == claim.job_id, attempts.c.number == claim.attempt)
                .values(started_at=self._db.now())
            )
            return True

    def order(self, claim: Claim, name: str, order: Mapping[str, Any]) -> None:
        """Tell one member something else.

        Raises:
            StaleClaim: the gang is no longer this claim's.
        """
        with self._db.write() as tx:
            if not self._lock(tx, self._mine(claim)):
                raise StaleClaim(f"Attempt {claim.attempt} no longer holds the gang of job {claim.job_id}.")
            self._order(tx, claim.job_id, name, order)

    def end(self, claim: Claim) -> None:
        """The gang is over; its members find out when they look next, and ``depart``. Safe to call twice."""
        with self._db.write() as tx:
            tx.execute(update(gangs).where(self._mine(claim)).values(state=GangState.ENDED))

    def forget(self, claim: Claim) -> None:
        """Remove the gang with all its seats. Safe to call twice."""
        with self._db.write() as tx:
            tx.execute(delete(gangs).where(self._mine(claim)))  # seats go with it

    def recall(self) -> int:
        """A worker has come: jobs that stood down for want of workers need not wait for their next try."""
        with self._db.write() as tx:
            waiting = select(gangs.c.job_id).where(gangs.c.state == GangState.STOOD_DOWN)
            return int(
                tx.execute(
                    update(jobs)
                    .where(
                        jobs.c.state == JobState.QUEUED,
                        jobs.c.not_before.is_not(None),
                        jobs.c.id.in_(waiting),
                    )
                    .values(not_before=None, sent_at=None)
                ).rowcount
            )

    def stand_down(
        self, claim: Claim, *, pause_seconds: float, queued_until: float | None, why: str, tried: bool = True
    ) -> bool:
        """Give the job back to the queue before anything of it ran: no attempt was made, and none is recorded.

        Returns False, and does nothing, where somebody has asked to cancel it.

        Args:
            claim: the leader's.
            pause_seconds: how long nobody takes it up again.
            queued_until: until when the job may wait in all; by the database's clock.
            why: for the job's event.
            tried: count it among the tries in vain.

        Raises:
            StaleClaim: the job is no longer this claim's.
        """
        with self._db.write() as tx:
            self._insist(tx, claim)
            now = self._db.now()
            changed = tx.execute(
                update(jobs)
                .where(jobs.c.id == claim.job_id, jobs.c.cancel_requested.is_(False))
                .values(
                    state=JobState.QUEUED,
                    stage=None,
                    attempt=claim.attempt - 1,
                    claim_token=None,
                    lease_until=None,
                    worker_id=None,
                    sent_at=None,
                    not_before=now + pause_seconds if pause_seconds else None,
                    queued_until=queued_until,
                    updated_at=now,
                )
            ).rowcount
            if not changed:
                return False
            tx.execute(
                delete(attempts).where(attempts.c.job_id == claim.job_id, attempts.c.number == claim.attempt)
            )
            tx.execute(delete(gang_seats).where(gang_seats.c.job_id == claim.job_id))
            tx.execute(
                update(gangs)
                .where(gangs.c.job_id == claim.job_id)
                .values(state=GangState.STOOD_DOWN, tries=gangs.c.tries + int(tried))
            )
            event = state_event(
                JobState.RUNNING, JobState.QUEUED, reason=why, retry_in_seconds=pause_seconds or None
            )
            emit(self._db, tx, claim.job_id, [event])
            return True

    # Everybody's.

    def others_alive(self, worker_id: str, queue: str) -> int:
        """Workers of that queue other than this one that were heard of lately and take jobs."""
        with self._db.read() as tx:
            rows = tx.execute(
                select(workers.c.queues).where(
                    workers.c.heartbeat_at >= self._db.now() - ALIVE_SECONDS,
                    workers.c.id != worker_id,
                    workers.c.draining.is_(None),
                )
            ).scalars()
            return sum(queue in (queues or ("default",)) for queues in rows)

    def wanted(self, worker_id: str, *, queues: Sequence[str], before: str | None = None) -> str | None:
        """The job of the first gang in which a slot of this worker is of use; with ``before``, only one that goes
        before the gang of that job. A read.
        """
        with self._db.read() as tx:
            found = tx.execute(self._wanting(worker_id, queues, before).limit(1)).first()
        return None if found is None else str(found.job_id)

    def status(self, job_id: str) -> GangStatus | None:
        """Who is in the job's gang and who is awaited; None where it has none."""
        with self._db.read() as tx:
            row = tx.execute(
                select(gangs, (self._db.now() - gangs.c.opened_at).label("age")).where(
                    gangs.c.job_id == job_id
                )
            ).one_or_none()
            if row is None or row.state == GangState.ENDED:
                return None
            rows = tx.execute(
                select(gang_seats.c.name, gang_seats.c.worker_id)
                .where(gang_seats.c.job_id == job_id)
                .order_by(gang_seats.c.number)
            ).all()
            ahead = None
            if row.state == GangState.ASSEMBLING:
                ahead = tx.execute(
                    select(gangs.c.job_id)
                    .where(
                        gangs.c.state == GangState.ASSEMBLING,
                        gangs.c.queue == row.queue,
                        self._alive(),
                        _goes_before(row.priority, job_id),
                    )
                    .order_by(gangs.c.priority.desc(), gangs.c.job_id)
                    .limit(1)
                ).scalar_one_or_none()
        assembled = row.state != GangState.STOOD_DOWN
        return GangStatus(
            state=GangState(row.state),
            here=(1 + sum(seat.worker_id is not None for seat in rows)) if assembled else 0,
            size=row.size,
            waited_seconds=max(0.0, row.age) if row.state == GangState.ASSEMBLING else None,
            tries=row.tries,
            seats={seat.name: seat.worker_id for seat in rows},
            ahead=ahead,
            queue=row.queue,
        )

    def seats_of(self, worker_id: str) -> list[str]:
        """Jobs in whose gangs this worker has a seat."""
        with self._db.read() as tx:
            query = select(gang_seats.c.job_id).where(gang_seats.c.worker_id == worker_id)
            return list(tx.execute(query).scalars())

    def expire(self, worker_ids: Sequence[str]) -> int:
        """End the leases of seats whose workers are known to be dead. Returns how many."""
        if not worker_ids:
            return 0
        with self._db.write() as tx:
            mine = gang_seats.c.worker_id.in_(worker_ids)
            return int(
                tx.execute(update(gang_seats).where(mine).values(lease_until=self._db.now() - 1)).rowcount
            )

    def sweep(self) -> int:
        """Forget gangs whose job has gone on without them. Any number of processes may do so at once."""
        running = and_(jobs.c.state == JobState.RUNNING, jobs.c.claim_token == gangs.c.token)
        waiting = and_(jobs.c.state == JobState.QUEUED, gangs.c.state == GangState.STOOD_DOWN)
        used = exists().where(jobs.c.id == gangs.c.job_id, or_(running, waiting))
        with self._db.read() as tx:
            if tx.execute(select(gangs.c.job_id).where(~used).limit(1)).first() is None:
                return 0
        with self._db.write() as tx:
            return int(tx.execute(delete(gangs).where(~used)).rowcount)

    # A member's side.

    def take(self, worker_id: str, *, queues: Sequence[str], lease_seconds: float) -> SeatClaim | None:
        """Take a seat of the first gang in which a slot of this worker is of use. None: there is no such gang, or the
        worker is draining.
        """
        with self._db.read() as tx:
            if tx.execute(select(workers.c.draining).where(workers.c.id == worker_id)).scalar():
                return None
            found = tx.execute(self._wanting(worker_id, queues, None).limit(CANDIDATES)).all()
        for row in found:
            token = new_id("seat")
            try:
                with self._db.write() as tx:
                    if not self._lock(
                        tx, (gangs.c.job_id == row.job_id) & (gangs.c.token == row.token), assembling=True
                    ):
                        continue
                    now = self._db.now()
                    taken = tx.execute(
                        update(gang_seats)
                        .where(
                            gang_seats.c.job_id == row.job_id,
                            gang_seats.c.number == row.number,
                            gang_seats.c.worker_id.is_(None),
                        )
                        .values(
                            token=token,
                            worker_id=worker_id,
                            renewals=0,
                            lease_until=now + lease_seconds,
                            said={},
                        )
                    ).rowcount
            except IntegrityError:  # another slot of this worker was faster: one seat each
                continue
            if taken:
                return SeatClaim(row.job_id, row.name, token, worker_id, row.token, row.attempt)
        return None

    def announce(
        self, seat: SeatClaim, *, host: str, port: int, gpus: Sequence[str], said: Mapping[str, Any]
    ) -> None:
        """Say where the member is to be reached.

        Raises:
            StaleClaim: the gang is over, or the seat another's.
        """
        self._write(seat, {"host": host, "port": port, "gpus": list(gpus), "said": json_safe(said)})

    def say(self, seat: SeatClaim, said: Mapping[str, Any]) -> None:
        """Tell the leader something.

        Raises:
            StaleClaim: the gang is over, or the seat another's.
        """
        self._write(seat, {"said": json_safe(said)})

    def renew(self, seat: SeatClaim, lease_seconds: float) -> None:
        """Extend the seat's lease from now.

        Raises:
            StaleClaim: the gang is over, or the seat another's.
        """
        renewals = gang_seats.c.renewals + 1
        self._write(seat, {"lease_until": self._db.now() + lease_seconds, "renewals": renewals})

    def look(self, seat: SeatClaim) -> GangView:
        """What the leader wants. A read, cheap enough for several times a second.

        Raises:
            StaleClaim: the gang is over, or the seat another's.
        """
        with self._db.read() as tx:
            row = tx.execute(
                select(gangs.c.state, gangs.c.leader, gang_seats.c.orders)
                .join_from(gang_seats, gangs, gangs.c.job_id == gang_seats.c.job_id)
                .where(self._held(seat), gangs.c.token == seat.gang_token, self._alive())
            ).one_or_none()
        if row is None:
            raise _gone(seat)
        return GangView(GangState(row.state), row.orders, row.leader)

    def leave(self, seat: SeatClaim) -> bool:
        """Give the seat up while the gang assembles; False, with nothing done, once it has started."""
        with self._db.write() as tx:
            gang = (gangs.c.job_id == seat.job_id) & (gangs.c.token == seat.gang_token)
            if not self._lock(tx, gang, assembling=True):
                return False
            return bool(tx.execute(update(gang_seats).where(self._held(seat)).values(**_OPEN)).rowcount)

    def depart(self, seat: SeatClaim) -> None:
        """The member's program is gone. Safe to call twice, and when the gang is long over."""
        with self._db.write() as tx:
            tx.execute(delete(gang_seats).where(self._held(seat)))

    def _wanting(self, worker_id: str, queues: Sequence[str], before: str | None) -> Any:
        """Open seats that the worker may take, the first gang's first."""
        member = gang_seats.alias("member")
        query = (
            select(gangs.c.job_id, gangs.c.token, gangs.c.attempt, gang_seats.c.number, gang_seats.c.name)
            .join_from(gang_seats, gangs, gangs.c.job_id == gang_seats.c.job_id)
            .where(
                gangs.c.state == GangState.ASSEMBLING,
                gangs.c.queue.in_(queues),
                gangs.c.leader != worker_id,
                gang_seats.c.worker_id.is_(None),
                ~exists().where(member.c.job_id == gangs.c.job_id, member.c.worker_id == worker_id),
                self._alive(),
            )
            .order_by(gangs.c.priority.desc(), gangs.c.job_id, gang_seats.c.number)
        )
        if before is not None:
            own = select(gangs.c.priority).where(gangs.c.job_id == before).scalar_subquery()
            query = query.where(_goes_before(own, before))
        return query

    def _alive(self) -> ColumnElement[bool]:
        return exists().where(
            jobs.c.id == gangs.c.job_id,
            jobs.c.state == JobState.RUNNING,
            jobs.c.claim_token == gangs.c.token,
            gangs.c.state != GangState.ENDED,
            jobs.c.cancel_requested.is_(False) | (gangs.c.state == GangState.STARTED),
        )

    def _mine(self, claim: Claim) -> ColumnElement[bool]:
        return (gangs.c.job_id == claim.job_id) & (gangs.c.token == claim.token)

    def _held(self, seat: SeatClaim) -> ColumnElement[bool]:
        return (gang_seats.c.job_id == seat.job_id) & (gang_seats.c.token == seat.token)

    def _lock(self, tx: Connection, which: ColumnElement[bool], *, assembling: bool = False) -> bool:
        """Whoever changes who is in a gang holds its row until commit, so that they come one after the other."""
        if assembling:
            which = which & (gangs.c.state == GangState.ASSEMBLING)
        return bool(tx.execute(update(gangs).where(which).values(size=gangs.c.size)).rowcount)

    def _insist(self, tx: Connection, claim: Claim) -> None:
        held = tx.execute(update(jobs).where(held_by(claim)).values(updated_at=self._db.now())).rowcount
        if not held:
            raise stale(claim)

    def _order(self, tx: Connection, job_id: str, name: str, order: Mapping[str, Any]) -> None:
        tx.execute(
            update(gang_seats)
            .where(gang_seats.c.job_id == job_id, gang_seats.c.name == name)
            .values(orders=json_safe(order))
        )

    def _write(self, seat: SeatClaim, values: Mapping[str, Any]) -> None:
        alive = exists().where(
            gangs.c.job_id == gang_seats.c.job_id, gangs.c.token == seat.gang_token, self._alive()
        )
        with self._db.write() as tx:
            if not tx.execute(update(gang_seats).where(self._held(seat), alive).values(**values)).rowcount:
                raise _gone(seat)


_OPEN: dict[str, Any] = {
    "token": None,
    "worker_id": None,
    "host": None,
    "port": None,
    "gpus": None,
    "said": {},
    "lease_until": None,
}


def _goes_before(priority: Any, job_id: str) -> ColumnElement[bool]:
    return or_(gangs.c.priority > priority, and_(gangs.c.priority == priority, gangs.c.job_id < job_id))


def _gone(seat: SeatClaim) -> StaleClaim:
    return StaleClaim(f"{seat.worker_id} no longer has the seat {seat.name} of job {seat.job_id}.")
