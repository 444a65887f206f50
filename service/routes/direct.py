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
from service.fields import peek_trigger
from service.problems import Problem
from service.routes import inspections
from service.routes.station import station_of
from service.security.gate import Gate
from service.security.gated_app import admit, refuse

log = structlog.get_logger(__name__)

_PATH: Final = inspections.router.prefix


def install(app: FastAPI, gate: Gate, max_body_bytes: int) -> None:
    """Make an application answer `POST /v1/inspections` directly, to those whom the gate lets in."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: _Direct(build(), gate, max_body_bytes)  # type: ignore[method-assign]


class _Direct:
    """Takes the inspections out of what goes to the framework."""

    def __init__(self, framework: ASGIApp, gate: Gate, max_body_bytes: int) -> None:
        self._framework = framework
        self._gate = gate
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != _PATH or scope["method"] != "POST":
            await self._framework(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            admit(self._gate, scope)
        except Problem as problem:
            request.state.trigger = peek_trigger(request)
            # Without its station: whoever is not let in would choose the labels of the metrics.
            station_of(request).metrics.request(None, problem.kind.slug)
            await (await refuse(request, problem, self._max_body_bytes))(scope, receive, send)
            return
        try:
            response = await inspections.inspect(request)
        except Problem as problem:
            response = problems.respond(request, problem)
        except Exception:  # as the framework's outermost layer does; the next requests are spared
            log.exception("unexpected_error", path=_PATH)
            response = problems.respond(request, problems.unexpected())
        await response(scope, receive, send)
