"""What is asked of a model server: a checked predict request, and its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from services.api.body import checked, json_or_bare_nan
from services.api.envelope import Envelope, body_for, open_envelope
from shared.errors import InvalidInput, NotFound
from shared.views import PredictRequest

IMAGE_SIGNATURE = "image_bytes"
_BARE = re.compile(rb"NaN|Infinity")  # perhaps a number, perhaps within a text


@dataclass(frozen=True, slots=True)
class Question:
    """One predict request: ``body`` is what TensorFlow Serving's REST API takes.

    ``key`` keeps a caller's requests on one side of a label that splits.
    """

    model: str
    version: int | None
    label: str | None
    signature_name: str | None
    body: bytes
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
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
    envelope = open_envelope(raw)
    if envelope is not None:
        return _from_envelope(envelope, key)
    body = checked(PredictRequest.model_validate, json_or_bare_nan(raw))
    return checked_question(body, key, raw)


def _from_envelope(envelope: Envelope, key: str | None) -> Question:
    stand_in = checked(PredictRequest.model_validate, {**envelope.fields, envelope.key: [0]})
    # no text in the value, so it holds no image files
    return checked_names(
        stand_in, stand_in.signature_name, lambda: body_for(envelope, stand_in.signature_name), key
    )


def checked_question(asked: PredictRequest, key: str | None = None, raw: bytes = b"") -> Question:
    """Refuse what contradicts itself, and write the body for the model server; ``raw`` is what was asked.

    Raises:
        InvalidInput: with the field to mend.
        NotFound: a name that no model can have.
    """
    signature = chosen_signature(asked.signature_name, asked.instances)

    def body() -> bytes:
        data: dict[str, Any] = {} if signature is None else {"signature_name": signature}
        if asked.instances is not None:
            data["instances"] = asked.instances
        else:
            data["inputs"] = asked.inputs
        if _BARE.search(raw) is not None:  # orjson would write null
            return json.dumps(data, ensure_ascii=False).encode()
        return orjson.dumps(data)

    return checked_names(asked, signature, body, key)


def checked_names(
    asked: PredictRequest, signature: str | None, body: Callable[[], bytes], key: str | None
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
    if not re.fullmatch(r"[^\s/:?#%\x00-\x1f]{1,200}", asked.model) or asked.model in (".", ".."):
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
