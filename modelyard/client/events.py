"""What ``job.follow()`` yields, and how a dropped stream goes on where it was. No network here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from modelyard.client.sse import Decoder, Message
from modelyard.errors import Unavailable
from shared.jobs import JobState
from shared.views import EventView, JobView, ProgressView

READ_SECONDS = 60.0  # the server sends a keep-alive comment well within this
MAX_FRUITLESS = 8  # connections in a row that brought nothing


class Event(EventView):
    """One stored event of a job. ``type`` says which members of ``data`` there are; see docs/client.md."""

    @property
    def state(self) -> JobState | None:
        """The state that the job went to; None unless ``type`` is "state"."""
        return JobState(self.data["to"]) if self.type == "state" else None

    @property
    def stage(self) -> str | None:
        """The stage that the job entered; None unless ``type`` is "stage"."""
        return str(self.data["stage"]) if self.type == "stage" else None

    @property
    def epoch(self) -> int | None:
        """The epoch that ended; None unless ``type`` is "epoch"."""
        return int(self.data["epoch"]) if self.type == "epoch" else None

    @property
    def metrics(self) -> dict[str, float | None]:
        """The epoch's metrics; empty unless ``type`` is "epoch"."""
        found: dict[str, Any] = self.data.get("metrics") or {}
        return found if self.type == "epoch" else {}


class Progress(ProgressView):
    """Where training stands now. Not stored: a follower that comes late sees the newest only."""


@dataclass(frozen=True)
class Ended:
    """The last thing a stream says: the job as it ended."""

    job: JobView


JobEvent = Event | Progress | Ended


@dataclass
class Following:
    """The position in a job's stream, over any number of connections."""

    last: int = 0  # number of the last stored event seen
    ended: bool = False
    fruitless: int = 0
    _decoder: Decoder = field(default_factory=Decoder)

    def connect(self) -> None:
        """A new connection begins: half a message from the old one is worth nothing."""
        self._decoder = Decoder()

    def feed(self, piece: bytes) -> Iterator[JobEvent]:
        """Take what arrived; the events that it completes."""
        for message in self._decoder.feed(piece):
            if (event := self._read(message)) is not None:
                yield event

    def _read(self, message: Message) -> JobEvent | None:
        self.fruitless = 0
        if message.event == "progress":
            return Progress.model_validate_json(message.data)
        if message.event == "end":
            self.ended = True
            return Ended(JobView.model_validate_json(message.data))
        if message.id is None:
            return None  # something a newer server says
        event = Event.model_validate_json(message.data)
        if event.seq <= self.last:
            return None  # sent again after a reconnect
        self.last = event.seq
        return event

    def pause_after(self, failure: Exception | None) -> float:
        """A connection ended before the job did: seconds to wait before the next.

        Raises:
            Exception: ``failure`` itself, after too many connections that brought nothing.
        """
        self.fruitless += 1
        if failure is not None and self.fruitless >= MAX_FRUITLESS:
            raise failure
        return float(min(5.0, 0.1 * 2**self.fruitless) * random.uniform(0.5, 1.0))  # noqa: S311


# What a follower survives: the connection broke, or the API is being restarted.
DROPPED = (httpx.TransportError, Unavailable)
