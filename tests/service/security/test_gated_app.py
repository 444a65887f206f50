"""The gate in front of the application, over real connections."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from serving import wait_until
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from service.problems import ProblemDocument, install
from service.security.gate import Gate
from service.security.gated_app import GatedApp
from service.security.headers import SecurityHeaders
from service.security.keys import KeyRing, new_key

KEYS = {role: new_key(f"a-{role}", role, now=datetime.now(UTC)) for role in ("line", "operator", "engineer")}


class Fixed:
    """A ring that stays."""

    def ring(self) -> KeyRing:
        return KeyRing(line for _, line in KEYS.values())


def application() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.get("/livez")
    async def livez() -> str:
        return "alive"

    @app.post("/v1/inspections")
    async def inspect(request: Request) -> list[Any]:
        return [request.state.identity.name, len(await request.body())]

    @app.get("/v1/recipes")
    async def recipes(request: Request) -> str:
        return str(request.state.identity.name)

    @app.websocket("/watch")
    async def watch(socket: WebSocket) -> None:
        await socket.accept()

    return app


@contextmanager
def serving(app: ASGIApp) -> Iterator[httpx.Client]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
            yield http
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with serving(SecurityHeaders(GatedApp(application(), Gate(Fixed()), 10_000_000))) as http:
        yield http


def bearer(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[role][0]}"}


def test_who_has_the_right_key_is_let_in_and_known(http: httpx.Client) -> None:
    assert http.get("/livez").json() == "alive"
    assert http.post("/v1/inspections", content=b"abc", headers=bearer("line")).json() == ["a-line", 3]
    assert http.get("/v1/recipes", headers={"X-API-Key": KEYS["operator"][0]}).json() == "a-operator"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/inspections", {}, 401),
        ("POST", "/v1/inspections", {"X-API-Key": "wrong"}, 401),
        ("GET", "/v1/recipes", bearer("line"), 403),
        ("GET", "/v1/recipes/", bearer("operator"), 403),
        ("GET", "/nowhere", {}, 401),
        ("GET", "/v1/recipes%0A", {}, 401),
        ("GET", "/livez/../v1/recipes", {}, 401),
        ("GET", "/livez%2f..%2fv1%2frecipes", {}, 401),
        ("OPTIONS", "/v1/inspections", {}, 401),
        ("GET", "/livez", {"Origin": "http://evil.example"}, 403),
    ],
)
def test_refusals_are_problems(
    http: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = http.request(method, path, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = ProblemDocument.model_validate(response.json())
    assert (document.code, document.status, document.result) == (30, status, 0)
    assert ("www-authenticate" in response.headers) == (status == 401)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_refusal_in_one_line(http: httpx.Client) -> None:
    response = http.post("/v1/inspections", content=b"abc", headers={"Accept": "text/plain"})
    assert (response.status_code, response.text) == (401, "0;30;;;\n")


def test_refusal_reaches_a_client_that_is_still_sending(http: httpx.Client) -> None:
    """A controller that writes its whole request before it reads anything."""
    body = bytes(9_000_000)
    head = f"POST /v1/inspections HTTP/1.1\r\nHost: station\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")


def test_unknown_route_is_404_to_who_may_know(http: httpx.Client) -> None:
    assert http.get("/nowhere", headers=bearer("engineer")).status_code == 404


def test_logged_refusals_hold_no_key(http: httpx.Client) -> None:
    wrong = KEYS["line"][0][:-1]
    with capture_logs() as logs:
        http.post("/v1/inspections", headers={"X-API-Key": wrong})
        http.get("/v1/recipes", headers=bearer("line"))
    assert [entry["status"] for entry in logs] == [401, 403]
    assert not any(secret in str(logs) for secret in (wrong, KEYS["line"][0]))


async def opened(app: ASGIApp, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/watch", "headers": headers, "query_string": b"", "client": None}
    await app({**scope, "subprotocols": [], "root_path": ""}, receive, send)
    return sent


@pytest.mark.parametrize(("role", "first"), [(None, "close"), ("operator", "close"), ("engineer", "accept")])
def test_web_sockets_are_asked_too(role: str | None, first: str) -> None:
    app = GatedApp(application(), Gate(Fixed()), 1000)
    headers = [(b"authorization", bearer(role)["Authorization"].encode())] if role else []
    sent = asyncio.run(opened(app, headers))
    assert sent[0]["type"] == f"websocket.{first}"
