"""Predictions by the model server, over an asynchronous pool of connections.

The hot path asks the store for nothing: labels and signatures are looked up only when a request needs them, and are
then remembered for a second.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import orjson
from anyio import to_thread

from services.api.errors import DeadlineExceeded, UpstreamFailed, UpstreamRefused
from services.api.keep_alive import JSON, Headers, KeepAlivePool, Reply
from services.api.shapes import expected_by, from_metadata
from shared.errors import InvalidInput, NotFound, Unavailable
from shared.settings import Settings
from shared.store import Store

T = TypeVar("T")
REMEMBER_SECONDS = 1.0
REMEMBERED = 1000
DEADLINE_SECONDS = 120.0  # the first call of a large model may compile it
CONNECT_SECONDS = 2.0
IMAGE_SIGNATURE = "image_bytes"
_LABEL_IN_PATH = re.compile(rb"^(/v1/models/)([^/:]+)/labels/([^/:]+)((?::|/).*)?$")


@dataclass(frozen=True, slots=True)
class Question:
    """One predict request: ``body`` is what TensorFlow Serving's REST API takes."""

    model: str
    version: int | None
    label: str | None
    signature_name: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Prediction:
    """``content`` is the model server's JSON object; ``version`` answered, None when the server does not say."""

    version: int | None
    content: bytes


class Remembered:
    """Answers kept for a moment. Belongs to one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[Hashable, tuple[float, Any]] = {}

    async def get(self, key: Hashable, ask: Callable[[], T]) -> T:
        """What ``ask``, run in a thread, answered less than a moment ago, or answers now."""
        now = time.monotonic()
        found = self._known.get(key)
        if found is not None and found[0] > now:
            value: T = found[1]
            return value
        value = await to_thread.run_sync(ask)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = (now + self._seconds, value)
        return value

    def forget(self) -> None:
        """Ask anew from now on."""
        self._known.clear()


class ModelServer:
    """The asynchronous side of ``shared.serving_client``: predictions, and its connections for the pass-through."""

    def __init__(self, settings: Settings, store: Store, http: httpx.AsyncClient) -> None:
        self.http = http
        self._store = store
        self._url = settings.serving_url.rstrip("/")
        self._pool = KeepAlivePool(settings.serving_url)
        self._remembered = Remembered(REMEMBER_SECONDS)
        self._names_its_version: bool | None = None

    async def predict(self, question: Question) -> Prediction:
        """Ask the model server.

        Raises:
            NotFound: no such model, version or label.
            UpstreamRefused: the server can't use the input; the hint says what the signature takes.
            Unavailable: the server does not answer.
        """
        version = question.version
        if question.label is not None:
            version = await self.labelled(question.model, question.label)
        elif version is None and not self._names_its_version:
            version = await self._highest_available(question.model)
        path = f"/v1/models/{quote(question.model, safe='')}"
        if version is not None:
            path += f"/versions/{version}"
        answer = await self.ask(b"POST", f"{path}:predict".encode("ascii"), JSON, question.body)
        if answer.status != httpx.codes.OK:
            raise await self._refusal(question, version, answer)
        named = answer.header(b"x-model-version")
        self._names_its_version = named.isdigit()
        if named.isdigit():
            version = int(named)
        return Prediction(version, answer.content)

    async def labelled(self, model: str, label: str) -> int:
        """The version that a label points at, as of a second ago at most.

        Raises:
            NotFound: no such label.
        """
        return await self._remembered.get(
            ("label", model, label), lambda: self._store.models.resolve_label(model, label)
        )

    async def with_version(self, raw_path: bytes) -> bytes:
        """A path of TensorFlow Serving's API with a label that we know replaced by its version.

        A label we do not know is the server's own business.
        """
        found = _LABEL_IN_PATH.match(raw_path)
        if found is None:
            return raw_path
        head, model, label, rest = found.groups()
        try:
            version = await self.labelled(model.decode("ascii"), label.decode("ascii"))
        except (NotFound, Unavailable, UnicodeDecodeError):
            return raw_path
        return b"%s%s/versions/%d%s" % (head, model, version, rest or b"")

    async def alive(self) -> None:
        """Return if the server answers anything at all.

        Raises:
            Unavailable: it does not.
        """
        try:
            await self.http.get(f"{self._url}/v1/models/-", timeout=CONNECT_SECONDS)
        except httpx.TransportError as error:
            raise down(error) from error

    async def ask(self, method: bytes, path: bytes, headers: Headers, body: bytes) -> Reply:
        """Any request but HEAD, by the fast way, with its answer in memory.

        Raises:
            Unavailable: the server does not answer, or not in time.
        """
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self._pool.send(method, path, headers, body)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The model server did not answer within {DEADLINE_SECONDS:.0f} s.",
                hint="Send fewer instances in one request.",
            ) from error
        except OSError as error:
            raise down(error) from error

    async def _highest_available(self, model: str) -> int | None:
        """For servers that do not name the version that answered: choose it before asking."""
        try:
            answer = await self.http.get(f"{self._url}/v1/models/{quote(model, safe='')}", timeout=5.0)
        except httpx.TransportError as error:
            raise down(error) from error
        if answer.status_code != httpx.codes.OK:
            return None
        states = answer.json().get("model_version_status", [])
        return max((int(item["version"]) for item in states if item["state"] == "AVAILABLE"), default=None)

    async def _refusal(self, question: Question, version: int | None, answer: Reply) -> Exception:
        message = error_text(answer)
        status = answer.status
        if status == httpx.codes.NOT_FOUND:
            return await self._not_found(question, version, message)
        if status in (429, 503):
            return Unavailable(message, code="serving_unavailable")
        if status == httpx.codes.GATEWAY_TIMEOUT:
            return DeadlineExceeded(message)
        if status >= 500:
            return UpstreamFailed(message, hint="See the model server's log.")
        return UpstreamRefused(message, status=status, hint=await self._expected(question, version))

    async def _not_found(self, question: Question, version: int | None, message: str) -> Exception:
        try:
            model = await to_thread.run_sync(self._store.models.get, question.model)
        except NotFound as error:
            return error
        except Unavailable:
            return NotFound(message, code="model_not_found", field="model")
        if version is not None:
            try:
                await to_thread.run_sync(self._store.models.version, question.model, version)
            except NotFound as error:
                return error
            except Unavailable:
                pass
        if model.latest_version is None:
            return NotFound(
                f"The model {model.name!r} has no version.",
                code="version_not_found",
                field="model",
                hint="All of them were deleted; a train job with 'publish' makes a new one.",
            )
        return Unavailable(
            f"The model server has not loaded version {version or model.latest_version} of {model.name!r}: {message}",
            code="version_not_available",
            hint=f"GET /models/{model.name}/versions shows the state of each version.",
        )

    async def _expected(self, question: Question, version: int | None) -> str | None:
        """What the asked signature takes, in words, from the version's record."""

        def ask() -> dict[str, Any]:
            number = version
            if number is None:
                number = self._store.models.get(question.model).latest_version
            return {} if number is None else self._store.models.version(question.model, number).signatures

        try:
            signatures = await self._remembered.get(("signatures", question.model, version), ask)
        except (NotFound, Unavailable):
            signatures = await self._described(question.model, version)  # a model that was not made here
        return expected_by(signatures, question.signature_name)

    async def _described(self, model: str, version: int | None) -> dict[str, Any]:
        """The signatures as the server itself describes them; none when it does not."""
        url = f"{self._url}/v1/models/{quote(model, safe='')}"
        if version is not None:
            url += f"/versions/{version}"
        try:
            answer = await self.http.get(f"{url}/metadata", timeout=CONNECT_SECONDS)
            return from_metadata(answer.json())
        except (httpx.TransportError, ValueError):
            return {}

    async def aclose(self) -> None:
        """Close the pool of connections for predictions; ``http`` is its owner's."""
        await self._pool.aclose()

    def forget(self) -> None:
        """A label or a version has changed through this process: look again."""
        self._remembered.forget()


def down(error: Exception | None = None) -> Unavailable:
    """The error for a model server that does not answer."""
    reason = f": {error}" if error is not None and str(error) else ""
    return Unavailable(
        f"The model server does not answer{reason}.",
        code="serving_unavailable",
        hint="Check MODELYARD_SERVING_URL and the server's log; GET /readyz says what else is down.",
    )


def error_text(answer: Reply) -> str:
    """The message in the server's error, or what it sent instead."""
    try:
        message = orjson.loads(answer.content)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = answer.content[:500].decode("utf-8", "replace")
        message = message or f"The model server answered {answer.status}."
    return str(message).strip()[:2000]


def chosen_signature(signature_name: str | None, instances: list[Any] | None) -> str | None:
    """The signature to ask: as named, or the one for image files when every instance is one."""
    if signature_name is not None or not instances:
        return signature_name
    for item in instances:
        if not (isinstance(item, dict) and item.keys() == {"b64"}):
            return None
    return IMAGE_SIGNATURE


def checked_question(
    *,
    model: str,
    version: int | None,
    label: str | None,
    signature_name: str | None,
    instances: list[Any] | None,
    inputs: Any,
) -> Question:
    """Refuse what contradicts itself, and write the body for the model server.

    Raises:
        InvalidInput: with the field to mend.
        NotFound: a name that no model can have.
    """
    if version is not None and label is not None:
        raise InvalidInput("Name a version or a label, not both.", field="label")
    if (instances is None) == (inputs is None):
        raise InvalidInput(
            "Give one of 'instances' (a list with one entry per row) or 'inputs' (one value per input).",
            field="instances",
        )
    if instances is not None and not instances:
        raise InvalidInput("'instances' is empty.", field="instances", hint="Give at least one.")
    if not re.fullmatch(r"[^\s/:?#%\x00-\x1f]{1,200}", model) or model in (".", ".."):
        raise NotFound(
            f"There is no model {model[:80]!r}.",
            code="model_not_found",
            field="model",
            hint="See what is there with GET /models.",
        )
    signature = chosen_signature(signature_name, instances)
    body: dict[str, Any] = {} if signature is None else {"signature_name": signature}
    if instances is not None:
        body["instances"] = instances
    else:
        body["inputs"] = inputs
    return Question(model, version, label, signature, orjson.dumps(body))
