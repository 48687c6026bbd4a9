"""From errors to answers: the only place that knows which error is which HTTP status (RFC 9457)."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kartina.api.schemas import Problem
from kartina.errors import KartinaError, OffsetError, QueueFullError, RateError

log = structlog.get_logger("kartina.api")

MEDIA_TYPE = "application/problem+json"

PROBLEMS: dict[str, tuple[int, str]] = {  # code -> status, title
    # Errors of kartina.errors
    "input": (422, "The request cannot be used"),
    "data": (422, "The data cannot be used"),
    "config": (422, "A setting cannot be used"),
    "not_found": (404, "Not found"),
    "key_reused": (422, "The idempotency key was used for another request"),
    "conflict": (409, "Conflict"),
    "in_flight": (409, "The first request with this idempotency key is being accepted"),
    "wrong_offset": (409, "The part does not begin where the last one ended"),
    "integrity": (500, "A stored file is damaged"),
    "storage": (507, "Could not be stored"),
    "storage_away": (503, "The database is busy or away"),
    "no_room": (413, "There is no room for it"),
    "forbidden": (403, "Refused"),
    "diverged": (500, "Training diverged"),
    "unavailable": (503, "Not available now"),
    "queue_full": (429, "The queue is full"),
    "rate_limited": (429, "Too many requests"),
    "quota": (429, "The quota is used up"),
    "canceled": (409, "Cancelled"),
    "expired": (410, "Not made in time"),
    "error": (500, "Something went wrong"),
    # Errors of HTTP
    "bad_request": (400, "Bad request"),
    "unauthenticated": (401, "Not signed in"),
    "method_not_allowed": (405, "Method not allowed"),
    "not_acceptable": (406, "Not acceptable"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "unsatisfiable": (416, "There is no such part of the file"),
    "misdirected": (421, "Not the host of this service"),
}
OPENAI = ("/v1/images/generations", "/v1/images/edits")  # whose clients look for a `message`
_BY_STATUS = {400: "bad_request", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
              406: "not_acceptable", 413: "too_large", 415: "unsupported_media_type", 416: "unsatisfiable",
              421: "misdirected"}  # fmt: skip
TOO_LARGE = (
    "Found a request body over the size limit (1 MiB; 20 MiB for each image; 64 MiB for a part of an upload); "
    "send less."
)
_RETRY_AFTER = {
    "queue_full": "5",
    "unavailable": "5",
    "storage": "60",
    "storage_away": "5",
    "rate_limited": "5",
    "quota": "3600",
    "in_flight": "1",
}  # seconds


class HttpProblem(Exception):
    """A problem that a route itself answers with; errors of the product come from `kartina.errors`."""

    def __init__(self, code: str, detail: str):
        super().__init__(detail)
        self.code = code


def problem_of(code: str, detail: str, errors: tuple[str, ...] = (), request_id: str | None = None) -> Problem:
    """The problem with the code `code`; an unknown code is an "error"."""
    status, title = PROBLEMS.get(code, PROBLEMS["error"])
    return Problem(
        type=f"urn:kartina:problem:{code}",
        title=title,
        status=status,
        detail=_written(detail),
        code=code,
        errors=[_written(error) for error in errors],
        request_id=request_id,
    )


def _written(text: str) -> str:
    """A text that may quote what was sent, so that it can be sent: JSON may hold halves of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The problem as a response."""
    extra = dict(headers or {})
    if problem.code in _RETRY_AFTER:
        extra.setdefault("Retry-After", _RETRY_AFTER[problem.code])
    if problem.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    return JSONResponse(problem.model_dump(mode="json"), problem.status, extra, media_type=MEDIA_TYPE)


def extra_headers(error: KartinaError) -> dict[str, str]:
    """What to do next, where the error knows: when to ask again, where an upload goes on."""
    if isinstance(error, OffsetError):
        return {"Upload-Offset": str(error.offset)}
    return {"Retry-After": str(error.retry_after)} if isinstance(error, RateError | QueueFullError) else {}


def install(app: FastAPI) -> None:
    """Answer every error of the app as a problem; what nobody foresaw is the guard's (`kartina.api.security`)."""

    def respond(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> Response:
        if request.url.path in OPENAI:
            problem = problem.model_copy(update={"message": problem.detail})
        return answer(problem, headers)

    def request_id(request: Request) -> str | None:
        found: str | None = request.scope.get("state", {}).get("request_id")
        return found

    @app.exception_handler(KartinaError)
    async def product(request: Request, error: KartinaError) -> Response:
        problem = problem_of(error.code, str(error), error.details, request_id(request))
        if problem.status >= 500:
            tell = log.warning if problem.status == 503 else log.error
            tell("request_failed", code=error.code, error=str(error), path=request.url.path)
        return respond(request, problem, extra_headers(error))

    @app.exception_handler(HttpProblem)
    async def http_problem(request: Request, error: HttpProblem) -> Response:
        return respond(request, problem_of(error.code, str(error), request_id=request_id(request)))

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        lines = tuple(_line(found) for found in error.errors())
        detail = f"Found a request that cannot be used: {'; '.join(lines[:5])}"
        return respond(request, problem_of("input", detail, lines, request_id(request)))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = _BY_STATUS.get(error.status_code, "error")
        detail = {
            404: f"Found nothing at {request.url.path}; see /openapi.json for what there is.",
            405: f"Found the method {request.method} at {request.url.path}, which does not take it.",
            413: TOO_LARGE,
        }.get(error.status_code, str(error.detail))
        return answer(problem_of(code, detail, request_id=request_id(request)), dict(error.headers or {}))


def _line(found: Any) -> str:
    """One line for one wrong value: where it is, what is expected, what was found."""
    where = ".".join(str(part) for part in found["loc"] if part != "body") or "body"
    if found["type"] == "extra_forbidden":
        return f"{where}: no such field"
    if found["type"] == "json_invalid":
        return f"body: not JSON ({found.get('ctx', {}).get('error', found['msg'])})"
    if found["type"] == "missing":
        return f"{where}: missing"
    value = repr(found.get("input"))
    return f"{where}: {found['msg'].lower()} (found {value if len(value) <= 80 else value[:77] + '...'})"


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems a route can answer with, beside those that every route can."""
    found: dict[int | str, dict[str, Any]] = {}
    body = ("bad_request",) if "too_large" in codes else ()  # it may be no JSON, or no form
    for code in (*codes, *body, "unauthenticated", "forbidden", "misdirected", "rate_limited", "storage_away", "error"):
        status, title = PROBLEMS[code]
        schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
        described = found.setdefault(status, {"description": title, "content": {MEDIA_TYPE: schema}})
        if title not in described["description"]:
            described["description"] += f"; {title.lower()}"
        if code in _RETRY_AFTER:
            described["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds"}}
    return found
