"""The gate before a whole application, for everything that does not ask it by itself."""

from typing import Final

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.body import BodyReader
from service.problems import Problem, respond
from service.security.gate import Gate
from service.security.keys import Identity

log = structlog.get_logger(__name__)

_POLICY_VIOLATION: Final = 1008
"""The WebSocket close code (RFC 6455, section 7.4.1)."""


class GatedApp:
    """Asks the gate before the application sees a request; who asks is `request.state.identity` then.

    Args:
        app: What answers those that are let in.
        gate: Lets them in.
        max_body_bytes: How much of a refused request's body is taken in, so that the refusal reaches the client.
    """

    def __init__(self, app: ASGIApp, gate: Gate, max_body_bytes: int) -> None:
        self._app = app
        self._gate = gate
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            identity = ask(self._gate, scope)
        except Problem as problem:
            log.warning("refused", code=problem.kind.code, status=problem.kind.status, detail=problem.detail)
            await self._refuse(problem, scope, receive, send)
            return
        scope.setdefault("state", {})["identity"] = identity
        await self._app(scope, receive, send)

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        request = Request(scope, receive)
        await BodyReader(request, self._max_body_bytes).discard()
        await respond(request, problem)(scope, receive, send)


def ask(gate: Gate, scope: Scope) -> Identity:
    """Ask the gate about an ASGI request or the opening of a WebSocket.

    Raises:
        Problem: As `Gate.check` does.
    """
    headers = dict(scope["headers"])
    client = scope.get("client")
    return gate.check(
        scope.get("method", "GET"),
        scope["path"],
        headers.get(b"authorization"),
        headers.get(b"x-api-key"),
        client[0] if client else None,
        origin=headers.get(b"origin"),
        host=headers.get(b"host"),
    )
