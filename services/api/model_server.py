"""Predictions by the model server, over an asynchronous pool of connections.

The hot path asks the store for a model's labels and default once a second, and for nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from anyio import to_thread

from services.api.errors import DeadlineExceeded
from services.api.guard import Guards
from services.api.keep_alive import JSON, ConnectionLost, Headers, KeepAlivePool, Outcome, Parts, Reply
from services.api.questions import Prediction, Question
from services.api.refusals import Refusals
from services.api.remembered import Remembered
from services.api.routing import Choice, Router
from services.api.shadow import Shadows
from services.api.telemetry import Telemetry
from shared.errors import ModelyardError, Unavailable
from shared.settings import Settings
from shared.specs.traffic import LabelRoute
from shared.store import Store

REMEMBER_SECONDS = 1.0
CONNECT_SECONDS = 2.0
SERVER_SECONDS = 60.0  # how long the model server is taken for the one it was
log = logging.getLogger(__name__)


class First(NamedTuple):
    """What came of a request that was sent at once, at ``began`` of the performance counter."""

    choice: Choice
    began: float
    outcome: Outcome


class ModelServer:
    """The asynchronous side of ``shared.serving_client``: predictions, and its connections for the pass-through."""

    def __init__(
        self, settings: Settings, store: Store, http: httpx.AsyncClient, telemetry: Telemetry
    ) -> None:
        self.http = http
        self.telemetry = telemetry
        self._store = store
        self._url = settings.serving_url.rstrip("/")
        self._pool = KeepAlivePool(settings.serving_url, seconds=settings.predict_timeout_seconds)
        self._remembered = Remembered(REMEMBER_SECONDS)
        self._router = Router(store, self._remembered)
        self._refusals = Refusals(store, http, self._url, self._remembered)
        self._shadows = Shadows(telemetry)
        self.guards = Guards(self._withdraw)
        self._writing: set[asyncio.Task[None]] = set()
        self._names_its_version: bool | None = None
        self._takes_npy = False
        self._look_at = 0.0

    async def predict(
        self, question: Question, headers: Headers = JSON, first: First | None = None
    ) -> Prediction:
        """Ask the model server, with ``headers``; ``first``: what came of ``predict_at_hand``.

        Raises:
            NotFound: no such model, version or label.
            UpstreamRefused: the server can't use the input; the hint says what the signature takes.
            Unavailable: the server does not answer.
        """
        if first is None or isinstance(
            first.outcome, ConnectionLost
        ):  # it had given up on a connection that idled
            choice = await self._choose(question)
            answer = await self._answered(question, choice, headers)
        else:
            choice, answer = first.choice, self.reported(question.model, first)
        if answer.status == httpx.codes.NOT_FOUND and question.version is None:
            # the label was moved a moment ago, and the version it had pointed at is gone: nothing was computed
            self._remembered.forget()
            again = await self._choose(question)
            if again.version != choice.version:
                choice, answer = again, await self._answered(question, again, headers)
        if answer.status != httpx.codes.OK:
            raise await self._refusals.of(question, choice.version, answer)
        return self._prediction(question, choice, headers, answer)

    def predict_at_hand(self, question: Question, headers: Headers, then: Callable[[First], None]) -> bool:
        """Ask where the version and a connection are at hand; False: they are not, and nothing was done.

        ``then`` gets what came of it, for ``predicted``.

        Raises:
            NotFound: no such label.
        """
        choice = self._choice_at_hand(question)
        if choice is None:
            return False
        path = predict_path(question.model, choice.version) + question.query
        return self.ask_at_hand(b"POST", path, headers, question.body, choice, then)

    def predicted(self, question: Question, headers: Headers, first: First) -> Prediction | None:
        """The prediction; None if that was no plain answer, and ``predict`` is to go on."""
        if not isinstance(first.outcome, Reply) or first.outcome.status != httpx.codes.OK:
            return None
        return self._prediction(question, first.choice, headers, self.reported(question.model, first))

    def _prediction(self, question: Question, choice: Choice, headers: Headers, answer: Reply) -> Prediction:
        version = choice.version
        named = answer.header(b"x-model-version")
        self._names_its_version = named.isdigit() and len(named) < 20
        if self._names_its_version:
            version = int(named)
        if choice.shadow is not None:
            path = predict_path(question.model, choice.shadow) + question.query
            self.shadow(question.model, choice.shadow, path, headers, question.body, answer.content)
        return Prediction(version, answer.content)

    def _choice_at_hand(self, question: Question) -> Choice | None:
        if question.version is not None:
            return Choice(question.version)
        choice = self._router.choose_at_hand(question.model, question.label, question.key)
        return choice if choice is None or choice.version is not None or self._names_its_version else None

    async def _choose(self, question: Question) -> Choice:
        found = self._choice_at_hand(question)
        if found is not None:
            return found
        choice = await self.route(question.model, question.label, question.key)
        if choice.version is None and not self._names_its_version:
            return Choice(await self._highest_available(question.model))
        return choice

    def choose_at_hand(self, model: str, label: str | None, key: str | None) -> Choice | None:
        """As ``route``, where nobody need be asked; else None."""
        return self._router.choose_at_hand(model, label, key)

    async def route(self, model: str, label: str | None, key: str | None) -> Choice:
        """Where a request that names no version goes.

        Raises:
            NotFound: no such label.
            Unavailable: the store, which alone knows labels, does not answer.
        """
        try:
            return await self._router.choose(model, label, key)
        except Unavailable:
            if label is not None:
                raise
            return Choice(None)  # predictions go on without the store

    async def _answered(self, question: Question, choice: Choice, headers: Headers) -> Reply:
        path = predict_path(question.model, choice.version) + question.query
        return await self.watched(
            question.model, choice, lambda: self.ask(b"POST", path, headers, question.body)
        )

    async def watched(self, model: str, choice: Choice, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """``ask()``, measured for the label's guard and for the metrics."""
        began, status = time.perf_counter(), 0
        try:
            answer = await ask()
            status = answer.status
            return answer
        except ModelyardError:
            status = 503
            raise
        finally:
            if status:  # else the client has gone away, which says nothing about the version
                self.report(model, choice, status, time.perf_counter() - began)

    def report(self, model: str, choice: Choice, status: int, seconds: float) -> None:
        """One request was answered by ``choice``."""
        if choice.label is not None and choice.version is not None:
            self.telemetry.routed(model, choice.label, choice.version, status, seconds)
        self.guards.report(model, choice, ok=status == httpx.codes.OK, seconds=seconds)

    def shadow(
        self, model: str, version: int, path: bytes, headers: Headers, body: Parts, given: bytes
    ) -> None:
        """Send a copy to another version, in the background."""
        self._shadows.send(model, version, lambda: self.ask(b"POST", path, headers, body), given)

    async def takes_npy(self) -> bool:
        """Whether the server takes arrays as the bytes of a NumPy file; ours does, and says so."""
        now = time.monotonic()
        if now >= self._look_at:
            try:
                answer = await self.ask(b"GET", b"/healthz", [], ())
            except Unavailable:
                return False  # the prediction will say why
            self._takes_npy = b"application/x-npy" in answer.header(b"accept-post")
            self._look_at = now + SERVER_SECONDS
        return self._takes_npy

    def _withdraw(
        self, model: str, label: str, route: LabelRoute, target: str, reason: dict[str, Any]
    ) -> None:
        task = asyncio.create_task(self._write_withdrawal(model, label, route, target, reason))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_withdrawal(
        self, model: str, label: str, route: LabelRoute, target: str, reason: dict[str, Any]
    ) -> None:
        def write() -> bool:
            return self._store.labels.withdraw(model, label, route, target, reason)

        try:
            if await to_thread.run_sync(write):
                self.telemetry.withdrawn(model, label)
        except ModelyardError as error:
            log.error("%s/%s: %s could not be withdrawn: %s", model, label, target, error.message)
            self.guards.forget(model, label)  # judged again at the next request
        self._remembered.forget()

    async def alive(self) -> None:
        """Return if the server answers anything at all.

        Raises:
            Unavailable: it does not.
        """
        try:
            await self.http.get(f"{self._url}/v1/models/-", timeout=CONNECT_SECONDS)
        except httpx.TransportError as error:
            raise down(error) from error

    async def ask(self, method: bytes, path: bytes, headers: Headers, body: Parts) -> Reply:
        """Any request but HEAD, by the fast way, with its answer in memory.

        Raises:
            Unavailable: the server does not answer, or not in time.
        """
        try:
            return await self._pool.send(method, path, headers, body)
        except OSError as error:
            raise self._unanswered(error) from error

    def ask_at_hand(
        self,
        method: bytes,
        path: bytes,
        headers: Headers,
        body: Parts,
        choice: Choice,
        then: Callable[[First], None],
    ) -> bool:
        """As ``ask``, where a connection is at hand; False: there is none, and nothing was done."""
        began = time.perf_counter()
        return self._pool.send_at_hand(
            method, path, headers, body, lambda outcome: then(First(choice, began, outcome))
        )

    def reported(self, model: str, first: First) -> Reply:
        """The answer, once it is measured for the label's guard and for the metrics.

        Raises:
            Unavailable: there was none.
        """
        answer = first.outcome
        seconds = time.perf_counter() - first.began
        if isinstance(answer, Reply):
            self.report(model, first.choice, answer.status, seconds)
            return answer
        self.report(model, first.choice, httpx.codes.SERVICE_UNAVAILABLE, seconds)
        raise self._unanswered(answer) from answer

    def _unanswered(self, error: Exception) -> Unavailable | DeadlineExceeded:
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(
                f"The model server did not answer within {self._pool.seconds:g} s.",
                hint="Send fewer instances in one request.",
            )
        return down(error)

    async def _highest_available(self, model: str) -> int | None:
        """For servers that do not name the version that answered: choose it before asking."""
        try:
            answer = await self.http.get(f"{self._url}/v1/models/{quote(model, safe='')}", timeout=5.0)
        except httpx.TransportError as error:
            raise down(error) from error
        if answer.status_code != httpx.codes.OK:
            return None
        try:
            states = answer.json()["model_version_status"]
            return max(
                (int(item["version"]) for item in states if item["state"] == "AVAILABLE"), default=None
            )
        except (ValueError, KeyError, TypeError):
            return None  # it is no model server, as its answer will show

    async def aclose(self) -> None:
        """Close the pool of connections for predictions; ``http`` is its owner's."""
        await self._shadows.aclose()
        await self._remembered.aclose()
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._pool.aclose()

    def forget(self) -> None:
        """A label or a version has changed through this process: look again."""
        self._remembered.forget()


@lru_cache(maxsize=1024)
def predict_path(model: str, version: int | None) -> bytes:
    """Of TensorFlow Serving's REST API."""
    named = "" if version is None else f"/versions/{version}"
    return f"/v1/models/{quote(model, safe='')}{named}:predict".encode("ascii")


def down(error: Exception | None = None) -> Unavailable:
    """The error for a model server that does not answer."""
    reason = f": {error}" if error is not None and str(error) else ""
    return Unavailable(
        f"The model server does not answer{reason}.",
        code="serving_unavailable",
        hint="Check MODELYARD_SERVING_URL and the server's log; GET /readyz says what else is down.",
    )
