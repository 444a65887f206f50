"""The gate before a whole application, for everything that does not ask it by itself."""

from typing import Final

import structlog
from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.body import BodyReader
from service.problems import Problem, respond
from service.security.gate import Gate

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
            admit(self._gate, scope)
        except Problem as problem:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
                return
            response = await refuse(Request(scope, receive), problem, self._max_body_bytes)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def refuse(request: Request, problem: Problem, max_body_bytes: int) -> Response:
    """Log a refusal and take in what the client still sends; what to answer it then."""
    log.warning("refused", code=problem.kind.code, status=problem.kind.status, detail=problem.detail)
    await BodyReader(request, max_body_bytes).discard()
    return respond(request, problem)


def admit(gate: Gate, scope: Scope) -> None:
    """Ask the gate about an ASGI request or the opening of a WebSocket, and note in its state who asks.

    Raises:
        Problem: As `Gate.check` does.
    """
    headers = dict(scope["headers"])
    client = scope.get("client")
    scope.setdefault("state", {})["identity"] = gate.check(
        scope.get("method", "GET"),
        scope["path"],
        headers.get(b"authorization"),
        headers.get(b"x-api-key"),
        client[0] if client else None,
        origin=headers.get(b"origin"),
        host=headers.get(b"host"),
    )
