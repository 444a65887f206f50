"""Clients that take their time, over real connections; the limits are short here."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from service.security.slow_clients import Patience, WatchedProtocol, close_slow_connections, watched_protocol
from service.server import bind

SHORT = Patience(head_s=0.2, body_s=0.2, read_s=0.2)
LARGE = 64 * 1024 * 1024
"""More than the system takes in for a client that reads nothing."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]


class App:
    """Answers what it is asked for: the length of a body, much, or something after a while."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = b"x" * LARGE if scope["path"] == "/much" else b"done"
        if scope["path"] == "/slow":
            await self.go_on.wait()
        message: Any = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def serving(app: App, patience: Patience) -> AsyncIterator[tuple[Connect, set[Any]]]:
    config = uvicorn.Config(app, http=watched_protocol(patience), lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    connections: set[Any] = server.server_state.connections
    opened: list[asyncio.StreamWriter] = []
    with bind("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        tasks = [
            asyncio.create_task(server._serve([listener])),
            asyncio.create_task(close_slow_connections(connections, patience)),
        ]
        while not server.started:
            await asyncio.sleep(0.01)

        async def connect() -> Connection:
            reader, writer = await asyncio.open_connection(*address)
            opened.append(writer)
            return reader, writer

        yield connect, connections
        for writer in opened:
            writer.close()
        server.should_exit = True
        await tasks[0]
        tasks[1].cancel()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What came before the other side closed the connection."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def run(scenario: Callable[[App, Connect, set[Any]], Awaitable[None]], patience: Patience = SHORT) -> list[Any]:
    """Play a scenario; what was logged."""

    async def play() -> None:
        app = App()
        async with asyncio.timeout(60), serving(app, patience) as (connect, connections):
            await scenario(app, connect, connections)

    with capture_logs() as logs:
        asyncio.run(play())
    return [entry for entry in logs if entry["event"] == "slow_clients"]


HEAD = b"POST / HTTP/1.1\r\nHost: station\r\nContent-Length: 10\r\n"


@pytest.mark.parametrize("sent", [b"", b"P", HEAD], ids=["nothing", "a byte", "half a head"])
def test_head_that_never_comes(sent: bytes) -> None:
    async def scenario(_: App, connect: Connect, __: set[Any]) -> None:
        reader, writer = await connect()
        writer.write(sent)
        assert await until_closed(reader) == b""

    [entry] = run(scenario)
    assert (entry["head"], entry["log_level"]) == (1, "warning")


def test_head_that_comes_a_byte_at_a_time() -> None:
    async def scenario(_: App, connect: Connect, __: set[Any]) -> None:
        reader, writer = await connect()

        async def drip() -> None:
            writer.write(HEAD)
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await until_closed(reader) == b""
        dripping.cancel()

    assert [entry["head"] for entry in run(scenario)] == [1]


def test_next_head_on_a_connection_that_was_used() -> None:
    async def scenario(_: App, connect: Connect, __: set[Any]) -> None:
        reader, writer = await connect()
        writer.write(HEAD + b"\r\n" + bytes(10))
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")
        writer.write(HEAD)
        assert await until_closed(reader) == b""

    assert [entry["head"] for entry in run(scenario)] == [1]


def test_body_that_stops_halfway_is_over_for_the_application_too() -> None:
    async def scenario(app: App, connect: Connect, __: set[Any]) -> None:
        reader, writer = await connect()
        writer.write(HEAD + b"\r\n" + bytes(5))
        assert await until_closed(reader) == b""
        await app.gone.wait()

    assert [entry["body"] for entry in run(scenario)] == [1]


def test_answer_that_nobody_reads() -> None:
    async def scenario(_: App, connect: Connect, connections: set[Any]) -> None:
        _, writer = await connect()
        writer.write(b"GET /much HTTP/1.1\r\nHost: station\r\n\r\n")
        while not connections:
            await asyncio.sleep(0.01)
        while connections:
            await asyncio.sleep(0.01)

    assert [entry["answer"] for entry in run(scenario)] == [1]


def test_application_may_take_longer_than_any_client() -> None:
    async def scenario(app: App, connect: Connect, connections: set[Any]) -> None:
        reader, writer = await connect()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: station\r\n\r\n")
        silent, _ = await connect()
        await until_closed(silent)  # by then, all limits have passed for the other one too
        assert len(connections) == 1
        app.go_on.set()
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")

    assert len(run(scenario)) == 1


def test_connection_that_is_used_again_and_again_stays() -> None:
    async def scenario(_: App, connect: Connect, __: set[Any]) -> None:
        reader, writer = await connect()
        silent, _ = await connect()
        watching = asyncio.create_task(until_closed(silent))
        while not watching.done():
            writer.write(HEAD + b"\r\n")
            await asyncio.sleep(0)
            writer.write(bytes(10))
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")

    assert [entry["head"] for entry in run(scenario)] == [1]


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async def scenario(_: App, connect: Connect, connections: set[Any]) -> None:
        kept = [await connect() for _ in range(2)]
        while len(connections) < 2:
            await asyncio.sleep(0.01)
        third, _ = await connect()
        assert await until_closed(third) == b""
        for reader, writer in kept:
            writer.write(HEAD + b"\r\n" + bytes(10))
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")
        kept[0][1].close()
        while len(connections) > 1:
            await asyncio.sleep(0.01)
        reader, writer = await connect()
        writer.write(HEAD + b"\r\n" + bytes(10))
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")

    assert run(scenario, Patience(connections=2)) == []


def test_files_are_left_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issubclass(watched_protocol(Patience()), WatchedProtocol)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert watched_protocol(Patience()).most_connections == 768
    monkeypatch.setattr("resource.getrlimit", lambda _: (10**6, 10**6))
    assert watched_protocol(Patience()).most_connections == 4096
