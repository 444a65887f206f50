"""The one route that the line uses all day, answered without the framework's layers around it.

Routing, dependencies and the middlewares of the framework cost more than all that the service itself does with a
request; see docs/performance.md. The route is declared and documented like every other; only its calls are taken out
here, before those layers. Whatever is not exactly this route goes on to the framework.
"""

from typing import Final

import structlog
from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.problems import FAILED, Problem
from service.routes import inspections

log = structlog.get_logger(__name__)

_PATH: Final = inspections.router.prefix


def install(app: FastAPI) -> None:
    """Make an application answer `POST /v1/inspections` directly."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: _Direct(build())  # type: ignore[method-assign]


class _Direct:
    """Takes the inspections out of what goes to the framework."""

    def __init__(self, framework: ASGIApp) -> None:
        self._framework = framework

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != _PATH or scope["method"] != "POST":
            await self._framework(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await inspections.inspect(request)
        except Problem as problem:
            response = problems.respond(request, problem)
        except Exception:  # as the framework's outermost layer does; the next requests are spared
            log.exception("unexpected_error", path=_PATH)
            response = problems.respond(
                request, Problem(FAILED, "an unexpected error; the service's log has it in full")
            )
        await response(scope, receive, send)
