"""Predictions: one friendly route, and TensorFlow Serving's own paths passed through."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import Response

from services.api.body import checked
from services.api.deps import resources_of
from services.api.describe import json_body, problems
from services.api.errors import Malformed
from services.api.hot_path import json_answer
from services.api.npy import NPY
from services.api.passing import pass_to_model_server
from services.api.questions import IMAGE_SIGNATURE, Question, checked_question
from services.api.routing import KEY_HEADER
from shared.errors import InvalidInput, NotFound
from shared.views import PredictRequest, PredictResponse

router = APIRouter(tags=["predict"])

MAX_IMAGES = 1000
_EXAMPLES: dict[str, tuple[str, Any]] = {
    "rows": ("Rows of numbers", {"model": "iris", "instances": [[5.1, 3.5, 1.4, 0.2]]}),
    "label": (
        "The version with a label",
        {"model": "iris", "label": "stable", "instances": [[5.1, 3.5, 1.4, 0.2]]},
    ),
    "image": ("A PNG or JPEG file", {"model": "fashion", "instances": [{"b64": "iVBORw0KGgo..."}]}),
    "inputs": ("By column", {"model": "iris", "version": 2, "inputs": {"features": [[5.1, 3.5, 1.4, 0.2]]}}),
}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["model", "image"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "label": {"type": "string"},
            "signature_name": {"type": "string"},
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        },
    }
}


def _described() -> dict[str, Any]:
    extra = json_body(PredictRequest, _EXAMPLES)
    extra["requestBody"]["content"]["multipart/form-data"] = _FORM
    extra["requestBody"]["content"][NPY] = {"schema": {"type": "string", "format": "binary"}}
    extra["parameters"] = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": f"With a body of {NPY} only: {what}.",
            "schema": {"type": "string"},
        }
        for name, what in (
            ("model", "as in the JSON body"),
            ("version", "as in the JSON body"),
            ("label", "as in the JSON body"),
            ("signature_name", "as in the JSON body"),
            ("input", "name of the signature's input; needed where it has several"),
        )
    ] + [
        {
            "name": KEY_HEADER,
            "in": "header",
            "required": False,
            "description": "Requests with the same key stay on one side of a label that splits.",
            "schema": {"type": "string"},
        }
    ]
    return extra


@router.post(
    "/predict",
    operation_id="predict",
    summary="Ask a model",
    response_model=PredictResponse,
    responses={
        200: {
            "description": "The answer, with the version that gave it.",
            "headers": {"X-Model-Version": {"description": "As in the body.", "schema": {"type": "integer"}}},
        },
        **problems(400, 404, 413, 422, 502, 503, 504),
    },
    openapi_extra=_described(),
)
async def predict(request: Request) -> Response:
    """`instances` row by row or `inputs` by column, as TensorFlow Serving takes them; or a form with image files.

    Without a version or a label, the highest AVAILABLE version answers. A large tensor goes fastest as the bytes of a
    NumPy file (`application/x-npy`), with the names in the query; `Accept: application/x-npy` asks for one back.
    """
    # only forms come here: hot_path has answered the others
    resources = resources_of(request)
    question = await _from_form(request, request.headers.get(KEY_HEADER))
    prediction = await resources.model_server.predict(question)
    resources.telemetry.prediction(question.model)
    headers = {} if prediction.version is None else {"X-Model-Version": str(prediction.version)}
    content = json_answer(question.model, prediction)
    return Response(content, headers=headers, media_type="application/json")


async def _from_form(request: Request, key: str | None) -> Question:
    try:
        async with request.form(max_files=MAX_IMAGES, max_fields=20) as form:
            fields = _fields(form)
            files = [item for item in form.getlist("image") if isinstance(item, UploadFile)]
            images = [base64.b64encode(await item.read()).decode("ascii") for item in files]
    except (MultiPartException, HTTPException, FormParserError) as error:
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        raise Malformed(f"The multipart body is broken: {reason}") from None
    if not images:
        raise InvalidInput(
            "The form has no file field 'image'.",
            field="image",
            hint="For example: curl -F model=fashion -F image=@shoe.png",
        )
    given = {"signature_name": IMAGE_SIGNATURE, **fields, "instances": [{"b64": image} for image in images]}
    return checked_question(checked(PredictRequest.model_validate, given), key)


def _fields(form: FormData) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name == "image":
            continue
        if name in fields or isinstance(value, UploadFile):
            raise InvalidInput(f"The form field {name[:80]!r} can't be used like this.", field=name[:80])
        if value:
            fields[name] = value
    return fields


@router.api_route(
    "/v1/models/{rest:path}",
    methods=["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"],
    include_in_schema=False,
)
@router.api_route("/v1/models", methods=["GET"], include_in_schema=False)
async def tensorflow_serving(request: Request) -> Response:
    """TensorFlow Serving's REST API unchanged, but that labels and defaults set here work too.

    Large requests and rare methods come here: hot_path has answered the others.
    """
    if ".." in request.scope["path"].split("/"):
        raise NotFound("There is nothing at this path.", code="route_not_found")
    return await pass_to_model_server(resources_of(request).model_server, request)
