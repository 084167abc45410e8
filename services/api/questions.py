"""What is asked of a model server: a checked predict request, and its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from services.api.body import checked, json_or_bare_nan
from services.api.envelope import KEPT, KEPT_BYTES, TAIL, Envelope, head_for, open_envelope
from services.api.keep_alive import Parts
from shared.errors import InvalidInput, NotFound
from shared.views import PredictRequest

IMAGE_SIGNATURE = "image_bytes"
_NAME = re.compile(r"[^\s/:?#%\x00-\x1f]{1,200}")
_BARE = re.compile(rb"NaN|Infinity")  # perhaps a number, perhaps within a text


class Question(NamedTuple):
    """One predict request: ``body`` is what TensorFlow Serving's REST API takes, in parts.

    ``key`` keeps a caller's requests on one side of a label that splits. ``query`` goes behind the path, with its
    question mark; JSON has none.
    """

    model: str
    version: int | None
    label: str | None
    signature_name: str | None
    body: Parts
    key: str | None = None
    query: bytes = b""


class Prediction(NamedTuple):
    """``content`` is the model server's JSON object; ``version`` answered, None when the server does not say."""

    version: int | None
    content: bytes


def question_of(raw: bytes, key: str | None = None) -> Question:
    """The question in a JSON body.

    Raises:
        Malformed: not JSON.
        InvalidInput: with the field to mend.
        NotFound: a name that no model can have.
    """
    question = unparsed_question(raw, key)
    if question is not None:
        return question
    body = checked(PredictRequest.model_validate, json_or_bare_nan(raw))
    return checked_question(body, key, raw)


def unparsed_question(raw: bytes, key: str | None = None) -> Question | None:
    """As ``question_of``, where the value need not be parsed; else None.

    Raises:
        InvalidInput, NotFound: see ``question_of``.
    """
    envelope = open_envelope(raw)
    if envelope is None:
        return None
    frame = (_frame_lately if len(envelope.outside) <= KEPT_BYTES else _frame)(envelope.outside, envelope.key)
    body = (frame.body[0], envelope.value, TAIL)
    return Question(frame.model, frame.version, frame.label, frame.signature_name, body, key)


def _frame(outside: bytes, member: str) -> Question:
    """All of a question but the large value and the caller's key."""
    fields = Envelope(outside, member, memoryview(b"")).fields
    stand_in = checked(PredictRequest.model_validate, {**fields, member: [0]})
    # no text in the value, so it holds no image files
    signature = stand_in.signature_name
    return checked_names(stand_in, signature, lambda: (head_for(member, signature),), None)


_frame_lately = lru_cache(maxsize=KEPT)(_frame)


def checked_question(asked: PredictRequest, key: str | None = None, raw: bytes = b"") -> Question:
    """Refuse what contradicts itself, and write the body for the model server; ``raw`` is what was asked.

    Raises:
        InvalidInput: with the field to mend.
        NotFound: a name that no model can have.
    """
    signature = chosen_signature(asked.signature_name, asked.instances)

    def body() -> Parts:
        data: dict[str, Any] = {} if signature is None else {"signature_name": signature}
        if asked.instances is not None:
            data["instances"] = asked.instances
        else:
            data["inputs"] = asked.inputs
        if _BARE.search(raw) is not None:  # orjson would write null
            return (json.dumps(data, ensure_ascii=False).encode(),)
        return (orjson.dumps(data),)

    return checked_names(asked, signature, body, key)


def checked_names(
    asked: PredictRequest, signature: str | None, body: Callable[[], Parts], key: str | None
) -> Question:
    """A question with the body that ``body`` writes, once its names are found good.

    Raises:
        InvalidInput, NotFound: see ``checked_question``.
    """
    if asked.version is not None and asked.label is not None:
        raise InvalidInput("Name a version or a label, not both.", field="label")
    if (asked.instances is None) == (asked.inputs is None):
        raise InvalidInput(
            "Give one of 'instances' (a list with one entry per row) or 'inputs' (one value per input).",
            field="instances",
        )
    if asked.instances is not None and not asked.instances:
        raise InvalidInput("'instances' is empty.", field="instances", hint="Give at least one.")
    if not _NAME.fullmatch(asked.model) or asked.model in (".", ".."):
        raise NotFound(
            f"There is no model {asked.model[:80]!r}.",
            code="model_not_found",
            field="model",
            hint="See what is there with GET /models.",
        )
    return Question(asked.model, asked.version, asked.label, signature, body(), key)


def chosen_signature(signature_name: str | None, instances: list[Any] | None) -> str | None:
    """The signature to ask: as named, or the one for image files when every instance is one."""
    if signature_name is not None or not instances:
        return signature_name
    for item in instances:
        if not (isinstance(item, dict) and item.keys() == {"b64"}):
            return None
    return IMAGE_SIGNATURE
