"""A model server's refusal of a prediction, in the platform's words: what is missing, or what the input should be."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import orjson
from anyio import to_thread

from services.api.errors import DeadlineExceeded, UpstreamFailed, UpstreamRefused
from services.api.keep_alive import Reply
from services.api.questions import Question
from services.api.remembered import Remembered
from services.api.shapes import expected_by, from_metadata
from shared.errors import NotFound, Unavailable
from shared.store import Store

_DESCRIBE_SECONDS = 2.0


class Refusals:
    """Asks the store, and for models that were not made here the server at ``url``, what the caller needs to know."""

    def __init__(self, store: Store, http: httpx.AsyncClient, url: str, remembered: Remembered) -> None:
        self._store = store
        self._http = http
        self._url = url
        self._remembered = remembered

    async def of(self, question: Question, version: int | None, answer: Reply) -> Exception:
        """The error to raise for an ``answer`` other than 200 of ``version`` (None: of the server's choice)."""
        message = _error_text(answer)
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
            answer = await self._http.get(f"{url}/metadata", timeout=_DESCRIBE_SECONDS)
            return from_metadata(answer.json())
        except (httpx.TransportError, ValueError):
            return {}


def _error_text(answer: Reply) -> str:
    """The message in the server's error, or what it sent instead."""
    try:
        message = orjson.loads(answer.content)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = answer.content[:500].decode("utf-8", "replace")
        message = message or f"The model server answered {answer.status}."
    return str(message).strip()[:2000]
