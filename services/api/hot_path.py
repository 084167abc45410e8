"""Predictions, answered before FastAPI has a look at them: its machinery takes longer than most models.

Takes ``POST /predict`` with JSON or a NumPy file, and small requests to ``/v1/models/``. All else is passed on: forms,
large and chunked bodies, other methods, and the description of these routes (``routes.predict``). ``HotPath`` is the
way for any server and any client; most requests do not even get there, for ``express`` answers them before ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple, Protocol, TypeVarTuple
from urllib.parse import parse_qsl

from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api import errors, render
from services.api.fields import BodyInvalid
from services.api.keep_alive import JSON, Headers
from services.api.model_server import First
from services.api.npy import NPY, as_npy, binary_question, question_from_npy
from services.api.passing import (
    SMALL_BYTES,
    Passed,
    Small,
    is_small,
    pass_at_hand,
    pass_small,
    passed_at_hand,
    small,
)
from services.api.questions import Prediction, Question, question_of, unparsed_question
from services.api.resources import Resources
from services.api.routing import KEY_HEADER
from shared.errors import ModelyardError, NotFound
from shared.wire import Answer

# Larger bodies are parsed in a thread, so that other requests do not wait for them; still larger ones are not even
# looked through here.
APART_BYTES = 2**20
SCANNED_BYTES = 8 * 2**20
Given = TypeVarTuple("Given")
_KEY = KEY_HEADER.lower().encode("ascii")
_NPY = NPY.encode("ascii")
_JSON_TYPE = (b"content-type", b"application/json")
_NPY_TYPE = (b"content-type", _NPY)


class Call(NamedTuple):
    """One whole request; names of headers are lower case, ``raw_path`` is percent-encoded."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    body: bytes
    request_id: str


class Lane(Protocol):
    """Where an answer goes that needs no task: ``give`` or ``go_on`` is called, once."""

    def give(self, answer: Answer) -> None:
        """The answer, or an error's."""
        ...

    def go_on(self, rest: Awaitable[Answer]) -> None:
        """It does need one: ``rest`` is awaited."""
        ...

    def step(self, step: Callable[[*Given], None]) -> Callable[[*Given], None]:
        """``step``, to be called later as a part of this request."""
        ...


@dataclass(frozen=True, slots=True)
class Hot:
    """Stands for FastAPI's route of the same path in metrics.

    ``answer`` may raise ModelyardError and BodyInvalid. ``at_hand`` does all that ``answer`` does where nothing must be
    waited for but the model server; False: something must, and nothing was done.
    """

    path: str
    answer: Callable[[Resources, Call], Awaitable[Answer]]
    at_hand: Callable[[Resources, Call, Lane], bool]


class HotPath:
    """ASGI middleware; what is around it (``Edge``) holds for predictions as for all other requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass it on."""
        hot = hot_route(scope["method"], scope["path"], scope["headers"]) if scope["type"] == "http" else None
        if hot is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = hot
        call = Call(
            scope["method"],
            scope["path"],
            scope.get("raw_path") or scope["path"].encode(),
            scope["query_string"],
            scope["headers"],
            await _whole(receive),
            scope["state"]["request_id"],
        )
        answer = await answered(hot.answer(scope["app"].state.resources, call), call.request_id)
        headers = list(answer.headers)
        if answer.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def hot_route(method: str, path: str, headers: Headers, largest: int = SMALL_BYTES) -> Hot | None:
    """What answers such a request here; None: nothing does. ``largest``: body that is passed through in memory."""
    if path == "/predict":
        if method != "POST" or _header(headers, b"content-type").startswith(b"multipart/form-data"):
            return None
        return _PREDICT
    return _PASS if path.startswith("/v1/models/") and is_small(method, headers, largest) else None


async def answered(rest: Awaitable[Answer], request_id: str) -> Answer:
    """What ``rest`` gives, or an error's answer; errors that nobody foresaw are raised."""
    try:
        return await rest
    except ModelyardError as error:
        return plain(errors.problem_of(error, request_id))
    except BodyInvalid as error:
        return plain(errors.invalid(error, request_id))


def plain(response: Response) -> Answer:
    """A response whose body is known."""
    headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
    return Answer(int(response.status_code), headers, bytes(response.body))


class _Headers(NamedTuple):
    """Of a predict request, those that matter."""

    content_type: bytes
    accept: bytes
    key: str | None


def _read(headers: Headers) -> _Headers:
    content_type = accept = b""
    key: str | None = None
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"accept":
            accept = value
        elif name == _KEY:
            key = value.decode("latin-1")
    return _Headers(content_type, accept, key)


async def _predict(resources: Resources, call: Call) -> Answer:
    read = _read(call.headers)
    server = resources.model_server
    headers = _sent(call)
    straight = False
    if read.content_type.startswith(_NPY):
        straight = await server.takes_npy()
        if straight:
            headers[0] = _NPY_TYPE
            if _NPY in read.accept:
                headers.append((b"accept", _NPY))
        question = await _binary(call, read.key, straight=straight)
    else:
        question = await _question(call.body, read.key)
    prediction = await server.predict(question, headers)
    if _NPY not in read.accept:
        return _json(resources, question, prediction)
    resources.telemetry.prediction(question.model)
    content = prediction.content if straight else await to_thread.run_sync(as_npy, prediction.content)
    return _predicted(prediction, _NPY_TYPE, content)


def _predict_at_hand(resources: Resources, call: Call, lane: Lane) -> bool:
    read = _read(call.headers)
    if read.content_type.startswith(_NPY) or _NPY in read.accept:
        return False
    server = resources.model_server
    try:
        question = _question_at_hand(call.body, read.key)
        if question is None:
            return False
        headers = _sent(call)
        finish = lane.step(partial(_finish, resources, question, headers, lane))
        return server.predict_at_hand(question, headers, finish)
    except (ModelyardError, BodyInvalid):
        return False  # it will be found again


def _finish(resources: Resources, question: Question, headers: Headers, lane: Lane, first: First) -> None:
    prediction = resources.model_server.predicted(question, headers, first)
    if prediction is not None:
        lane.give(_json(resources, question, prediction))
        return

    async def rest() -> Answer:
        return _json(resources, question, await resources.model_server.predict(question, headers, first))

    lane.go_on(rest())


def _sent(call: Call) -> Headers:
    return [*JSON, (b"x-request-id", call.request_id.encode("ascii"))]


def _json(resources: Resources, question: Question, prediction: Prediction) -> Answer:
    resources.telemetry.prediction(question.model)
    return _predicted(prediction, _JSON_TYPE, json_answer(question.model, prediction))


def _predicted(prediction: Prediction, kind: tuple[bytes, bytes], content: bytes) -> Answer:
    if prediction.version is None:
        return Answer(200, [kind], content)
    return Answer(200, [kind, (b"x-model-version", b"%d" % prediction.version)], content)


def _question_at_hand(raw: bytes, key: str | None) -> Question | None:
    if len(raw) < APART_BYTES:
        return question_of(raw, key)
    return unparsed_question(raw, key) if len(raw) < SCANNED_BYTES else None


async def _question(raw: bytes, key: str | None) -> Question:
    question = _question_at_hand(raw, key)
    return await to_thread.run_sync(question_of, raw, key) if question is None else question


async def _binary(call: Call, key: str | None, *, straight: bool) -> Question:
    named = dict(parse_qsl(call.query.decode("latin-1"), keep_blank_values=True))
    if straight:
        return binary_question(call.body, named, key)
    return await to_thread.run_sync(question_from_npy, call.body, named, key)


async def _pass(resources: Resources, call: Call) -> Answer:
    return await pass_small(resources.model_server, _small(call))


def _pass_at_hand(resources: Resources, call: Call, lane: Lane) -> bool:
    server = resources.model_server
    try:
        asked = _small(call)
    except NotFound:
        return False

    def finish(passed: Passed, first: First) -> None:
        answer = passed_at_hand(server, asked, passed, first)
        if answer is not None:
            lane.give(answer)
        else:
            lane.go_on(pass_small(server, asked, passed, first))

    return pass_at_hand(server, asked, lane.step(finish))


def _small(call: Call) -> Small:
    if ".." in call.path.split("/"):
        raise NotFound("There is nothing at this path.", code="route_not_found")
    key = _header(call.headers, _KEY)
    return small(
        call.method,
        call.raw_path,
        call.query,
        call.headers,
        call.body,
        key.decode("latin-1") if key else None,
        call.request_id,
    )


_PREDICT = Hot("/predict", _predict, _predict_at_hand)
_PASS = Hot("/v1/models/{rest:path}", _pass, _pass_at_hand)


def json_answer(model: str, prediction: Prediction) -> bytes:
    """The model server's own text with the model and the version put in front.

    Its numbers are neither parsed nor written again.
    """
    content = prediction.content.strip()
    head = _head(model, prediction.version)
    if content[:1] == b"{" and content[-1:] == b"}" and content[1:-1].strip():
        return b"%s,%s" % (head[:-1], memoryview(content)[1:])
    return head


@lru_cache(maxsize=256)
def _head(model: str, version: int | None) -> bytes:
    return render.dumps({"model": model, "version": version})


async def _whole(receive: Receive) -> bytes:
    """The request's body.

    Raises:
        ClientDisconnect: it will not be whole any more.
    """
    message = await receive()
    parts: list[bytes] = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
        message = await receive()
    raise ClientDisconnect


def _header(headers: Headers, wanted: bytes) -> bytes:
    for name, value in headers:
        if name == wanted:
            return value
    return b""
