"""The one place where errors become HTTP: a status table and problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.api.fields import BodyInvalid, offending_fields
from shared.errors import (
    Conflict,
    InvalidInput,
    Misconfigured,
    ModelyardError,
    NotFound,
    TooLarge,
    Unavailable,
)
from shared.model_repo import DiskFull

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_SECONDS = "2"


class Malformed(InvalidInput):
    """The body is not what its content type says."""

    code = "malformed_body"


class UnsupportedMedia(InvalidInput):
    """A content type that this route does not take."""

    code = "unsupported_media_type"


class Unauthenticated(ModelyardError):
    """No key where one is needed, or one that is not good."""

    code = "key_needed"


class Forbidden(ModelyardError):
    """The caller is known, and may not do this."""

    code = "not_allowed"


class RateLimited(ModelyardError):
    """Too many requests; ``headers`` say how many are possible, and when."""

    code = "rate_limited"
    retryable = True

    def __init__(self, message: str, *, headers: dict[str, str], **more: Any) -> None:
        super().__init__(message, **more)
        self.headers = headers


class UpstreamRefused(ModelyardError):
    """The model server said no; ``status`` is its own 4xx."""

    code = "predict_invalid"

    def __init__(self, message: str, *, status: int, **more: Any) -> None:
        super().__init__(message, **more)
        self.status = status


class UpstreamFailed(ModelyardError):
    """The model server broke while answering."""

    code = "model_server_failed"


class DeadlineExceeded(Unavailable):
    """The answer took too long."""

    code = "deadline_exceeded"


STATUS: dict[type[ModelyardError], HTTPStatus] = {
    ModelyardError: HTTPStatus.INTERNAL_SERVER_ERROR,
    InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    Malformed: HTTPStatus.BAD_REQUEST,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    UpstreamFailed: HTTPStatus.BAD_GATEWAY,
    Misconfigured: HTTPStatus.INTERNAL_SERVER_ERROR,
    DiskFull: HTTPStatus.INSUFFICIENT_STORAGE,
}


def status_of(error: ModelyardError) -> int:
    """The nearest class of the table decides; a refusal by the model server keeps its own status."""
    if isinstance(error, UpstreamRefused):
        return error.status
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    hint: str | None = None,
    errors: list[dict[str, Any]] | None = None,
    request_id: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem+json answer without empty members."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "field": field,
        "hint": hint,
        "errors": errors,
        "request_id": request_id,
    }
    content = orjson.dumps({key: value for key, value in body.items() if value is not None})
    return Response(content, status, headers, media_type=PROBLEM_JSON)


def problem_of(error: ModelyardError, request_id: str | None) -> Response:
    """The answer to an expected error."""
    status = status_of(error)
    headers: dict[str, str] | None = None
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": RETRY_AFTER_SECONDS}
    elif status == HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": 'Bearer realm="modelyard"'}  # RFC 9110, 11.6.1: a 401 has one
    elif isinstance(error, RateLimited):
        headers = error.headers
    return problem(
        status,
        error.code,
        error.message,
        field=error.field,
        hint=error.hint,
        request_id=request_id,
        headers=headers,
    )


def unexpected(error: Exception, request_id: str | None) -> Response:
    """The answer to an error nobody foresaw: a 500 that can be found in the log by its request id."""
    log.error("unexpected error, request %s", request_id, exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "Something went wrong in the API itself.",
        hint="The API's log has the details under this request_id.",
        request_id=request_id,
    )


def request_id_of(request: Request) -> str | None:
    """The id that the edge gave this request."""
    found: str | None = getattr(request.state, "request_id", None)
    return found


async def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, ModelyardError)  # noqa: S101 - registered for this class
    return problem_of(error, request_id_of(request))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyInvalid | RequestValidationError)  # noqa: S101
    return invalid(error, request_id_of(request))


def invalid(error: BodyInvalid | RequestValidationError, request_id: str | None) -> Response:
    """The answer to a body or parameters that pydantic refused."""
    fields = offending_fields(error)
    first = fields[0]
    more = f" ({len(fields) - 1} more in 'errors')" if len(fields) > 1 else ""
    told = not first["field"] or first["message"].startswith(first["field"])
    where = "" if told else f"{first['field']}: "
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_input",
        f"{where}{first['message']}{more}",
        field=first["field"],
        errors=fields,
        request_id=request_id,
    )


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    status = error.status_code
    path = request.url.path[:200]
    if status == HTTPStatus.NOT_FOUND:
        code, detail, hint = "route_not_found", f"There is nothing at {path}.", "GET /docs lists all routes."
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        code, detail = "method_not_allowed", f"{request.method} is not possible at {path}."
        hint = f"Allowed here: {allowed}." if allowed else "GET /docs lists all routes."
    else:
        code, detail, hint = "http_error", str(error.detail), ""
    return problem(
        status,
        code,
        detail,
        hint=hint or None,
        request_id=request_id_of(request),
        headers=dict(error.headers) if error.headers else None,
    )


def install(app: FastAPI) -> None:
    """Register the translations."""
    app.add_exception_handler(ModelyardError, _expected)
    app.add_exception_handler(BodyInvalid, _invalid)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
