"""Every way in which a request can fail: code, status and the one place that turns it into an answer (RFC 9457)."""

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.negotiation import result_line, wants_line

MEDIA_TYPE: Final = "application/problem+json"
CHALLENGE: Final = 'Bearer realm="atsnet"'
"""What a client without a key is asked for (RFC 9110, section 11.6.1)."""

_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the contract's table of codes."""

    code: int
    status: int
    slug: str
    title: str
    result: Literal[0, 3] = 0


NOT_AN_IMAGE: Final = Kind(10, 400, "not-an-image", "The body is empty or not an image")
TOO_LARGE: Final = Kind(11, 413, "too-large", "The body or its pixels are over the limit")
UNUSABLE_IMAGE: Final = Kind(12, 422, "unusable-image", "The image is unusable")
WRONG_FIELD: Final = Kind(13, 422, "wrong-field", "A field is wrong")
UNKNOWN: Final = Kind(20, 404, "unknown", "There is no such thing")
METHOD_NOT_ALLOWED: Final = Kind(20, 405, "method-not-allowed", "The route has no such method")
KEY_REUSED: Final = Kind(21, 409, "key-reused", "The idempotency key was used with another image")
UNAUTHORIZED: Final = Kind(30, 401, "unauthorized", "An API key is needed")
FORBIDDEN: Final = Kind(30, 403, "forbidden", "That is not allowed")
OVERLOADED: Final = Kind(40, 429, "overloaded", "Too many inspections are waiting")
RATE_LIMITED: Final = Kind(40, 429, "rate-limited", "Too many requests in too short a time")
NOT_READY: Final = Kind(40, 503, "not-ready", "The service is not ready")
DEADLINE_PASSED: Final = Kind(41, 504, "deadline-passed", "The deadline passed before a verdict")
FAILED: Final = Kind(50, 500, "failed", "The inspection failed", result=3)

KINDS: Final = {
    kind.slug: kind
    for kind in (
        *(NOT_AN_IMAGE, TOO_LARGE, UNUSABLE_IMAGE, WRONG_FIELD, UNKNOWN, METHOD_NOT_ALLOWED, KEY_REUSED),
        *(UNAUTHORIZED, FORBIDDEN, OVERLOADED, RATE_LIMITED, NOT_READY, DEADLINE_PASSED, FAILED),
    )
}
"""All of them by their slugs."""


class Problem(Exception):  # noqa: N818
    """A request that cannot be answered with a verdict.

    Args:
        kind: What went wrong, in the contract's terms.
        detail: What exactly, and what to do about it, for a person.
        retry_after_s: Seconds after which trying again makes sense.
        extensions: Further members of the problem document.
    """

    def __init__(
        self, kind: Kind, detail: str, *, retry_after_s: int | None = None, extensions: dict[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.extensions = extensions or {}


class ProblemDocument(BaseModel):
    """The body of every error, `application/problem+json`."""

    v: Literal[1] = 1
    trigger: int | None = Field(description="The request's trigger, where it could be read.")
    result: Literal[0, 3] = Field(description="0 not evaluated, 3 error; neither ever means pass.")
    code: int = Field(description="Reason, from the list in the contract.")
    type: str
    title: str
    status: int
    detail: str
    field: str | None = Field(default=None, description="Code 13: the field that is wrong.")
    id: str | None = Field(default=None, description="Codes 41 and 50: the inspection, where it was recorded.")


def unexpected() -> Problem:
    """What is answered to an error that nobody thought of: nothing of it."""
    return Problem(FAILED, "an unexpected error; the service's log has it in full")


def respond(request: Request, problem: Problem) -> Response:
    """Answer a problem: the document, or the line where the client asked for `text/plain`."""
    kind = problem.kind
    headers = headers_of(problem)
    trigger: int | None = getattr(request.state, "trigger", None)
    if wants_line(request):
        line = result_line(kind.result, kind.code, trigger, None, problem.extensions.get("id"))
        return Response(line, kind.status, headers, media_type="text/plain")
    body = orjson.dumps(document(kind, problem.detail, trigger, **problem.extensions))
    return Response(body, kind.status, headers, media_type=MEDIA_TYPE)


def headers_of(problem: Problem) -> dict[str, str]:
    """The headers of a problem's answer, beside its type and length."""
    headers = {"Cache-Control": "no-store"}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.kind is UNAUTHORIZED:
        headers["WWW-Authenticate"] = CHALLENGE
    return headers


def document(kind: Kind, detail: str, trigger: int | None, **extensions: str) -> dict[str, Any]:
    """The JSON document of a problem, its keys in the contract's order."""
    return {
        "v": 1,
        "trigger": trigger,
        "result": kind.result,
        "code": kind.code,
        "type": f"urn:atsnet:problem:{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        **extensions,
    }


def install(app: FastAPI) -> None:
    """Make an application answer its problems, unknown routes and unexpected errors in the contract's form."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_problem(request: Request, error: Exception) -> Response:
    return respond(request, cast("Problem", error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    first = cast("RequestValidationError", error).errors()[0]
    where, *names = (str(part) for part in first["loc"])
    field = ".".join(names) or where
    given = "" if first["type"] in ("missing", "json_invalid") else f" (got {str(first['input'])[:80]!r})"
    return respond(request, Problem(WRONG_FIELD, f"{field}: {first['msg']}{given}", extensions={"field": field[:80]}))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    raised = cast("HTTPException", error)
    if raised.status_code == METHOD_NOT_ALLOWED.status:
        problem = Problem(METHOD_NOT_ALLOWED, f"{request.url.path} does not answer {request.method}; see /docs")
        response = respond(request, problem)
        response.headers["Allow"] = _methods_of(request)
        return response
    if raised.status_code == UNKNOWN.status:
        return respond(request, Problem(UNKNOWN, f"there is no route {request.url.path}; see /docs"))
    return respond(request, Problem(WRONG_FIELD, str(raised.detail)))


def _methods_of(request: Request) -> str:
    """The methods that the path has, whichever routers they come from; the framework names those of one."""
    routes = request.app.routes
    return ", ".join(
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    )


async def _on_unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    # Starlette raises the error again once this is answered, so that the server logs it with its traceback.
    return respond(request, unexpected())
