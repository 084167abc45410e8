"""A job in the hands of ordinary code."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx

from modelyard.client import routes
from modelyard.client.call import unreachable
from modelyard.client.events import DROPPED, Event, Following, JobEvent
from modelyard.client.outcome import Patience, raise_if_unsuccessful
from modelyard.client.saving import archive_kind
from shared.jobs import JobState
from shared.study_views import (
    HistoryView,
    ImportanceView,
    ParallelView,
    StudyView,
    TrialList,
    TrialOrder,
)
from shared.trials import TrialStatus
from shared.views import (
    ArtifactList,
    CheckpointList,
    EventList,
    ExplainView,
    JobView,
    MetricsView,
    ReproductionView,
)

if TYPE_CHECKING:
    from modelyard.client.sync import Client


class Job:
    """A job, with what was last heard of it in ``view``."""

    def __init__(self, client: Client, view: JobView) -> None:
        self._client = client
        self.view = view

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def state(self) -> JobState:
        """As last heard; ``refresh`` asks again."""
        return self.view.state

    def refresh(self) -> Job:
        """Ask the server how it stands."""
        self.view = self._client.send(routes.job(self.id))
        return self

    def wait(self, timeout: float | None = None, *, check: bool = True) -> Job:
        """Wait until it is over.

        Raises:
            JobFailed, JobCancelled: it ended so; not with ``check=False``.
            WaitTimeout: it is not over yet.
        """
        patience = Patience(self.id, timeout)
        while not self.refresh().state.terminal:
            time.sleep(patience.next_pause(self.view))
        if check:
            raise_if_unsuccessful(self.view)
        return self

    def follow(self, *, after: int = 0) -> Iterator[JobEvent]:
        """Its events from number ``after`` on, live, until it ends. Survives dropped connections without a gap."""
        position = Following(after)
        while not position.ended:
            failure: Exception | None = None
            position.connect()
            try:
                with self._client.stream(routes.event_stream(self.id, position.last)) as response:
                    for piece in response.iter_bytes():
                        yield from position.feed(piece)
            except DROPPED as error:
                failure = (
                    unreachable(self._client.url, error) if isinstance(error, httpx.HTTPError) else error
                )
            if not position.ended:
                time.sleep(position.pause_after(failure))
        self.refresh()

    def events(self, *, after: int = 0, limit: int | None = None) -> EventList:
        """One page of its history."""
        return self._client.send(routes.events(self.id, after, limit))

    def history(self) -> Iterator[Event]:
        """Its whole history so far."""
        after, more = 0, True
        while more:
            page = self.events(after=after)
            for item in page.items:
                after = item.seq
                yield Event.model_validate(item.model_dump())
            more = page.has_more

    def logs(self, *, offset: int = 0, tail: int | None = None, member: str | None = None) -> str:
        """Its log so far, from byte ``offset``, or only its last ``tail`` lines; or that of a ``member`` of its
        cluster, such as worker-1.
        """
        return self._client.send(routes.logs(self.id, offset=offset, tail=tail, member=member))

    def follow_logs(self, *, offset: int = 0, member: str | None = None) -> Iterator[str]:
        """Its log as it grows, until it ends, in pieces of any length."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        position = Following()
        while True:
            failure: Exception | None = None
            try:
                with self._client.stream(
                    routes.logs(self.id, offset=offset, follow=True, member=member)
                ) as response:
                    for chunk in response.iter_bytes():
                        offset += len(chunk)
                        position.fruitless = 0
                        if text := decoder.decode(chunk):
                            yield text
            except DROPPED as error:
                failure = (
                    unreachable(self._client.url, error) if isinstance(error, httpx.HTTPError) else error
                )
            if failure is None and self.refresh().state.terminal:
                return
            time.sleep(position.pause_after(failure))

    def metrics(self, names: Sequence[str] | None = None, *, max_points: int | None = None) -> MetricsView:
        """Its metric series, thinned to ``max_points`` each."""
        return self._client.send(routes.metrics(self.id, names, max_points))

    def artifacts(
        self, path: str = "", *, limit: int | None = None, after: str | None = None
    ) -> ArtifactList:
        """One page of its files, or of those in its folder ``path``."""
        return self._client.send(routes.artifacts(self.id, path, limit, after))

    def download(self, name: str, path: str | os.PathLike[str]) -> Path:
        """Save one of its files as ``path``."""
        return self._client.save(routes.artifact(self.id, name), path)

    def download_all(self, path: str | os.PathLike[str], *, below: str = "") -> Path:
        """Save all its files, or those in its folder ``below``, as one archive: a .zip or .tar.gz."""
        return self._client.save(routes.artifact_archive(self.id, archive_kind(path), below), path)

    def checkpoints(self, *, verify: bool = True) -> CheckpointList:
        """The states of training that are kept, newest first; each file is compared with its SHA-256."""
        return self._client.send(routes.checkpoints(self.id, verify=verify))

    def study(self) -> StudyView:
        """How it stands as a study: counts, the best trial or the Pareto front, what runs.

        Raises:
            Conflict: it is no study.
        """
        return self._client.send(routes.study(self.id))

    def trials(
        self,
        *,
        sort: TrialOrder | None = None,
        descending: bool | None = None,
        status: TrialStatus | str | None = None,
        limit: int | None = None,
        after: int | None = None,
    ) -> TrialList:
        """One page of its trials; ``after`` is the number of the last trial of the page before.

        By ``value`` the best trials come first, unless ``descending`` says otherwise.
        """
        return self._client.send(
            routes.trials(self.id, sort=sort, descending=descending, status=status, limit=limit, after=after)
        )

    def importance(self, objective: str | None = None) -> ImportanceView:
        """How much each parameter matters to one of its objectives, the first one if none is named.

        Raises:
            Conflict: too few of its trials are complete.
        """
        return self._client.send(routes.importance(self.id, objective))

    def study_history(self, objective: str | None = None, *, max_points: int | None = None) -> HistoryView:
        """Each ended trial's value of an objective, and the best so far."""
        return self._client.send(routes.study_history(self.id, objective, max_points))

    def parallel(self, *, max_lines: int | None = None) -> ParallelView:
        """Its trials as parallel coordinates."""
        return self._client.send(routes.parallel(self.id, max_lines))

    def explain(self) -> ExplainView:
        """Why it waits, who is ahead of it and about how long; or what it does."""
        return self._client.send(routes.explain(self.id))

    def set_priority(self, priority: int) -> Job:
        """Change its place among those that wait: -100 to 100, higher ones first."""
        self.view = self._client.send(routes.set_priority(self.id, priority))
        return self

    def cancel(self) -> Job:
        """Ask it to stop; asking twice does no harm."""
        self.view = self._client.send(routes.cancel(self.id))
        return self

    def retry(self, start: Literal["checkpoint", "scratch"] = "checkpoint") -> Job:
        """A new job with the same spec, from the last checkpoint or from scratch."""
        return Job(self._client, self._client.send(routes.retry(self.id, start)))

    def reproduce(self) -> Job:
        """A new job that trains this one again, on the same data and code; it publishes nothing."""
        return Job(self._client, self._client.send(routes.reproduce(self.id)))

    def reproduction(self, *, tolerance: float | None = None) -> ReproductionView:
        """How this job compares with the one that it reproduces."""
        return self._client.send(routes.reproduction(self.id, tolerance))
