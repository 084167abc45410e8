"""What is shown of a study's trials: pages in several orders, and rows of numbers for pictures.

A page costs the same however many trials there are: it begins behind the last trial of the page before, by an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from shared.errors import NotFound
from shared.jobs import JobState, Page
from shared.store.database import Database
from shared.store.schema import jobs, trials
from shared.store.studies import trial_from, with_jobs
from shared.trials import Trial, TrialStatus

Order = Literal["number", "value", "duration", "status"]
_COLUMNS = {"value": trials.c.value, "duration": trials.c.seconds, "status": trials.c.status}
PACE_TRIALS = 200  # the newest ones, from which the pace is taken


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that has ended, without its job."""

    number: int
    status: TrialStatus
    params: dict[str, Any]
    values: list[float] | None
    told_at: float


class TrialPages:
    """Read only. All methods are thread-safe, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def page(
        self,
        study_id: str,
        *,
        order: Order = "number",
        descending: bool = False,
        status: TrialStatus | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> Page[Trial]:
        """Trials behind the trial ``after``. Those without a value, duration or status yet come last, by number.

        Raises:
            NotFound: ``after`` is no trial of the study.
        """
        base = with_jobs().where(trials.c.study_id == study_id)
        if status is not None:
            base = base.where(_is(status))
        with self._db.read() as tx:
            last = None
            if after is not None:
                last = tx.execute(
                    select(trials).where(trials.c.study_id == study_id, trials.c.number == after)
                ).one_or_none()
                if last is None:
                    raise NotFound(f"The study {study_id} has no trial {after}.", code="trial_not_found")
            rows: list[Any] = []
            for query in _parts(base, order, descending, last):
                rows += tx.execute(query.limit(limit + 1 - len(rows))).all()
                if len(rows) > limit:
                    break
        return Page([trial_from(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def numbered(self, study_id: str, numbers: Sequence[int]) -> list[Trial]:
        """These trials, by number; unknown ones are left out."""
        query = (
            with_jobs()
            .where(trials.c.study_id == study_id, trials.c.number.in_(numbers))
            .order_by(trials.c.number)
        )
        with self._db.read() as tx:
            return [trial_from(row) for row in tx.execute(query)]

    def open_counts(self, study_id: str) -> tuple[int, int]:
        """How many trials wait, and how many run."""
        query = (
            select(jobs.c.state, func.count().label("total"))
            .join(trials, trials.c.job_id == jobs.c.id)
            .where(trials.c.study_id == study_id, trials.c.status.is_(None))
            .group_by(jobs.c.state)
        )
        with self._db.read() as tx:
            counts = {row.state: int(row.total) for row in tx.execute(query)}
        waiting = counts.pop(JobState.QUEUED, 0)
        return waiting, sum(counts.values())

    def pace(self, study_id: str) -> float | None:
        """Mean seconds of the newest trials that ran to an end; None while there are none."""
        newest = (
            select(trials.c.seconds)
            .where(
                trials.c.study_id == study_id,
                trials.c.status.in_((TrialStatus.COMPLETE, TrialStatus.PRUNED)),
                trials.c.seconds.is_not(None),
            )
            .order_by(trials.c.number.desc())
            .limit(PACE_TRIALS)
            .subquery()
        )
        with self._db.read() as tx:
            found = tx.execute(select(func.avg(newest.c.seconds))).scalar_one()
        return None if found is None else float(found)

    def changed(self, study_id: str, revision: int) -> list[Ended]:
        """Complete trials that have changed after ``revision``."""
        query = _ended(study_id).where(trials.c.revision > revision, trials.c.status == TrialStatus.COMPLETE)
        with self._db.read() as tx:
            return [_row(row) for row in tx.execute(query)]

    def ended(
        self, study_id: str, *, status: TrialStatus | None = None, newest: int | None = None
    ) -> list[Ended]:
        """Trials that have ended, by number; only the ``newest`` of them."""
        query = _ended(study_id)
        if status is not None:
            query = query.where(trials.c.status == status)
        query = query.order_by(trials.c.number.desc())
        if newest is not None:
            query = query.limit(newest)
        with self._db.read() as tx:
            return [_row(row) for row in tx.execute(query)][::-1]

    def last_values(self, study_id: str, numbers: Sequence[int]) -> dict[int, float | None]:
        """The last value of the first objective that each of these trials had reached, by number."""
        found: dict[int, float | None] = {}
        with self._db.read() as tx:
            for start in range(0, len(numbers), 500):
                query = select(trials.c.number, trials.c.intermediate).where(
                    trials.c.study_id == study_id, trials.c.number.in_(numbers[start : start + 500])
                )
                for row in tx.execute(query):
                    found[row.number] = row.intermediate[-1][1] if row.intermediate else None
        return found


def _is(status: TrialStatus) -> ColumnElement[bool]:
    if status.ended:
        return trials.c.status == status
    queued = jobs.c.state == JobState.QUEUED
    return and_(trials.c.status.is_(None), queued if status is TrialStatus.WAITING else ~queued)


def _parts(base: Select[Any], order: Order, descending: bool, last: Any) -> list[Select[Any]]:
    """Queries whose rows one after the other are what follows ``last``; each is one walk along an index."""
    number = trials.c.number
    if order == "number":
        if last is not None:
            base = base.where(number < last.number if descending else number > last.number)
        return [base.order_by(number.desc() if descending else number)]
    column = _COLUMNS[order]
    # of trials with one value the oldest is the first, and the study's best; of all else the index is walked backwards
    backwards = descending and order != "value"
    known = base.where(column.is_not(None)).order_by(
        column.desc() if descending else column, number.desc() if backwards else number
    )
    unknown = base.where(column.is_(None)).order_by(number)
    if last is None:
        return [known, unknown]
    value = last._mapping[column.name]
    if value is None:
        return [unknown.where(number > last.number)]
    further = column < value if descending else column > value
    later = number < last.number if backwards else number > last.number
    # said twice: the first is where the walk begins
    begin = column <= value if descending else column >= value
    return [known.where(begin, or_(further, and_(column == value, later))), unknown]


def _ended(study_id: str) -> Select[Any]:
    return select(
        trials.c.number, trials.c.status, trials.c.params, trials.c["values"], trials.c.told_at
    ).where(trials.c.study_id == study_id, trials.c.status.is_not(None))


def _row(row: Any) -> Ended:
    data = row._mapping
    return Ended(
        data["number"], TrialStatus(data["status"]), data["params"], data["values"], data["told_at"] or 0.0
    )
