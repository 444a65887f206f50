"""Clients of the events that take them in too slowly, or not at all."""

import asyncio
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
from listening import clients, listening
from serving import GOOD, Line, wait_until

from service.events import Event


def slow_client(line: Line) -> socket.socket:
    """A connection that asks for the events and reads none; its window is as small as it gets."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    url = urlsplit(line.url)
    connection.connect((url.hostname, url.port))
    connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    wait_until(lambda: clients(line) == 1)
    return connection


def test_slow_client_is_cut_off_and_resumes(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line.front.feed, "_max_waiting", 10)
    go_on = threading.Event()
    write = EventWrites(go_on)
    monkeypatch.setattr("service.routes.events._write", write)
    with listening(line) as listener:
        first = line.post(GOOD).json()["id"]
        assert listener.next()["id"] == first
        write.block = True
        sent = [line.post(GOOD).json()["id"] for _ in range(30)]
        wait_until(lambda: any(client.overrun for client in line.front.feed._clients))
        go_on.set()
        got = []
        comment = ""
        for text in listener._lines:
            if text.startswith("id: "):
                got.append(text.removeprefix("id: "))
            elif text.startswith(":"):
                comment = text
        assert comment.startswith(": too slow")
        assert got == sent[: len(got)]
        assert len(got) < 30
    with listening(line, got[-1] if got else first) as listener:
        assert listener.take(30 - len(got)) == sent[len(got) :]


class EventWrites:
    """Stands for the sending of events; holds it up."""

    def __init__(self, go_on: threading.Event) -> None:
        self.block = False
        self._go_on = go_on

    async def __call__(self, send: Any, data: bytes) -> None:
        while self.block and not self._go_on.is_set():
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": data, "more_body": True})


def test_client_that_takes_nothing_in_is_given_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.routes.events._STALLED_S", 0.2)
    monkeypatch.setattr("service.events._event", lambda inspection: Event(inspection.id, b":" * 4_000_000 + b"\n\n"))
    with slow_client(line):
        line.post(GOOD)
        line.post(GOOD)
        wait_until(lambda: clients(line) == 0)
        assert line.post(GOOD).status_code == 200


def test_long_history_outlasts_the_room_for_news(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.events._PAGE", 2)
    monkeypatch.setattr(line.front.feed, "_max_waiting", 3)
    old = [line.post(GOOD).json()["id"] for _ in range(6)]
    feed, read = line.front.feed, line.front.feed._read
    news: list[str] = []

    async def slow(after: str, until: str | None = None) -> list[Event]:
        if until is not None and len(news) < 8:  # while the history is read, more is recorded than may wait
            replies = await asyncio.gather(*(asyncio.to_thread(line.post, GOOD) for _ in range(4)))
            news.extend(reply.json()["id"] for reply in replies)
        return await read(after, until)

    monkeypatch.setattr(feed, "_read", slow)
    with listening(line, old[0]) as listener:
        assert listener.take(5) == old[1:]
        assert listener.take(8) == sorted(news)
