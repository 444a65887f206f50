"""A client of the events, and a way into the event loop that tells them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
from serving import Line


class Listener:
    """A client of the events, read a line at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()
        assert next(self._lines) == "retry: 1000"
        assert next(self._lines) == ""

    def next(self) -> dict[str, Any]:
        """The next event's id, name and document; comments on the way are passed over."""
        event: dict[str, Any] = {}
        for line in self._lines:
            if line.startswith(":"):
                assert next(self._lines) == ""
            elif line:
                name, _, value = line.partition(": ")
                event[name] = orjson.loads(value) if name == "data" else value
            else:
                return event
        raise EOFError

    def take(self, count: int) -> list[str]:
        return [self.next()["id"] for _ in range(count)]

    def comment(self) -> str:
        for line in self._lines:
            if line.startswith(":"):
                assert next(self._lines) == ""
                return line
        raise EOFError


@contextmanager
def listening(line: Line, last: str | None = None) -> Iterator[Listener]:
    headers = {} if last is None else {"Last-Event-ID": last}
    with line.http.stream("GET", "/v1/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        listener = Listener(response)  # held: it would close the response with itself
        yield listener


def clients(line: Line) -> int:
    return len(line.front.feed._clients)


def loop_of(line: Line) -> asyncio.AbstractEventLoop:
    """The event loop of a service that somebody listens to."""
    return line.front.feed._tasks[0].get_loop()


def in_its_loop(line: Line, call: Callable[[], None]) -> None:
    loop_of(line).call_soon_threadsafe(call)
