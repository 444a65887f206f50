"""The client against servers that are not even ones of HTTP: a verdict or a typed error, before the deadline."""

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from accepting import Answer, accepting
from client_answers import ASKED, PASS, QUICK
from serving import GOOD

from service.client import (
    AsyncInspectionClient,
    DeadlinePassedError,
    InspectionClient,
    NoAnswerError,
    NotEvaluated,
    Retries,
    Verdict,
)
from service.server import bind

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = json.dumps(PASS).encode()
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@contextmanager
def raw_server(*scripts: Answer) -> Iterator[str]:
    """Takes each connection's request in and does what the script says, the last one again and again."""
    following = itertools.chain(scripts, itertools.repeat(scripts[-1]))

    def answer(connection: socket.socket) -> None:
        _take_request(connection)
        with suppress(OSError):  # the client has hung up
            next(following)(connection)

    with accepting(answer) as address:
        yield f"http://{address}"


def _take_request(connection: socket.socket) -> None:
    taken = b""
    while b"\r\n\r\n" not in taken:
        chunk = connection.recv(65536)
        if not chunk:
            return
        taken += chunk
    head, _, body = taken.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length and (chunk := connection.recv(65536)):
        body += chunk


def sends(*pieces: bytes, every_s: float = 0.0) -> Answer:
    def script(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(every_s)

    return script


def hangs(connection: socket.socket) -> None:
    connection.recv(1)  # until the client hangs up


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def trickles(connection: socket.socket) -> None:
    for byte in itertools.chain(WHOLE[:-1], itertools.repeat(0x20)):
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def trickles_a_head(connection: socket.socket) -> None:
    for byte in itertools.chain(HEAD + b"X-Long: ", itertools.repeat(0x20)):
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def flows_without_end(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    while True:
        connection.sendall(b" " * 2**20)


CUT: dict[str, Answer] = {
    "at once": sends(),
    "reset": resets,
    "in the status": sends(b"HTTP/1.1 2"),
    "in the head": sends(HEAD),
    "before the body": sends(WHOLE[: -len(BODY)]),
    "in the body": sends(WHOLE[:-1]),
    "in a chunk": sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(BODY) + 1) + BODY),
    "before the last chunk": sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n"),
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
}


def ask_over_network(url: str, retries: Retries = QUICK, **options: Any) -> Verdict:
    with InspectionClient(url, retries=retries, timeout_s=20) as client:
        return client.inspect(GOOD, **{**ASKED, **options})


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_cut_answer_is_asked_for_again(cut: Answer) -> None:
    with raw_server(cut, cut, sends(WHOLE)) as url:
        assert ask_over_network(url).passed


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_answer_that_is_always_cut_is_none(cut: Answer) -> None:
    with raw_server(cut) as url, pytest.raises(NoAnswerError) as caught:
        ask_over_network(url, Retries(most=2, first_pause_s=0.001))
    assert (caught.value.result, caught.value.status, caught.value.attempts) == (0, None, 3)


@pytest.mark.parametrize("script", [hangs, trickles, trickles_a_head, flows_without_end], ids=lambda one: one.__name__)
def test_answer_that_never_ends_is_cut_by_the_deadline(script: Answer) -> None:
    with raw_server(script) as url, pytest.raises(DeadlinePassedError) as caught:
        ask_over_network(url, deadline_ms=150)
    assert (caught.value.result, caught.value.code, caught.value.status) == (0, 41, None)


def test_pass_that_comes_too_late_is_none() -> None:
    def late(connection: socket.socket) -> None:
        time.sleep(0.2)
        connection.sendall(WHOLE)

    with raw_server(late) as url, pytest.raises(DeadlinePassedError):
        ask_over_network(url, deadline_ms=100)


def test_attempt_that_hangs_is_given_up_for_another() -> None:
    with raw_server(hangs, sends(WHOLE)) as url:
        assert ask_over_network(url, Retries(first_pause_s=0.001, attempt_s=0.3)).passed
    with raw_server(hangs) as url, pytest.raises(NoAnswerError, match=r"within 0\.05 s"):
        ask_over_network(url, Retries(most=1, first_pause_s=0.001, attempt_s=0.05))


def test_body_without_a_length_that_is_complete() -> None:
    with raw_server(sends(HEAD + b"Connection: close\r\n\r\n", BODY)) as url:
        assert ask_over_network(url).passed
    with raw_server(sends(HEAD + b"Connection: close\r\n\r\n", BODY[:-1])) as url, pytest.raises(NotEvaluated):
        ask_over_network(url)


def test_nobody_listens() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoAnswerError, match=f"no answer from http://127.0.0.1:{port}"):
        ask_over_network(f"http://127.0.0.1:{port}", Retries(most=1, first_pause_s=0.001))


def test_name_that_nobody_looks_up_is_cut_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        assert given_up.wait(30), "the call waited for the name"
        return []

    with InspectionClient("http://station.invalid") as client:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with pytest.raises(DeadlinePassedError):
            client.inspect(GOOD, deadline_ms=100)
        given_up.set()


class Waits(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError


def test_call_that_ctrl_c_interrupts_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Waits()

    def interrupted(_: object) -> None:
        assert transport.begun.wait(30)
        raise KeyboardInterrupt

    with InspectionClient("http://station", transport=transport) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.inspect(GOOD)
        assert transport.cancelled.wait(30)


def test_cancelled_call_ends(recwarn: pytest.WarningsRecorder) -> None:
    async def scenario() -> None:
        with raw_server(hangs) as url:
            async with AsyncInspectionClient(url) as client:
                call = asyncio.create_task(client.inspect(GOOD))
                await asyncio.sleep(0.05)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

    asyncio.run(scenario())
    assert not recwarn.list


def test_no_part_waits_for_the_connection_of_another() -> None:
    count = 150
    answering = asyncio.Barrier(count)

    async def answer_all_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answering.wait()
        writer.write(WHOLE)
        writer.close()
        await writer.wait_closed()

    async def scenario() -> None:
        server = await asyncio.start_server(answer_all_at_once, "127.0.0.1", 0, backlog=count)
        host, port = server.sockets[0].getsockname()
        async with server, AsyncInspectionClient(f"http://{host}:{port}", retries=Retries(connect_s=30)) as client:
            verdicts = await asyncio.gather(*(client.inspect(GOOD, **ASKED, deadline_ms=30_000) for _ in range(count)))
            assert all(verdict.passed for verdict in verdicts)

    asyncio.run(scenario())
