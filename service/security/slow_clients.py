"""Connections that take their time: each is one that others may need, and the server itself waits for ever.

A client may open a connection and send the head of its request a byte at a time, or never (slowloris), stop in the
middle of a body, or never read its answer. The server's own limit is for connections that rest between two requests.

The others are looked at once a second, all of them together: a request costs nothing more, and a connection is closed
within a second of its limit.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if sys.platform != "win32":
    import resource

log = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 1.0
_FILES_FOR_OTHERS: Final = 256
"""Open files that the rest of the process needs: records, images, libraries."""

Waits = Literal["head", "body", "answer", "end"]
"""For what a connection makes the server wait: the rest of a head or of a body, or that what was sent is read."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the server waits for whom."""

    head_s: float = 10.0
    """For the whole head of a request, from the connection or from its first byte on."""
    body_s: float = 60.0
    """For the whole body, whatever the request's deadline."""
    read_s: float = 30.0
    """For a client that reads nothing of its answer."""
    connections: int = 4096
    """Open at a time, in one process; fewer where the system allows fewer open files."""

    def longest_s(self, waits: Waits) -> float:
        """How long to wait for that."""
        return {"head": self.head_s, "body": self.body_s}.get(waits, self.read_s)


class WatchedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which can be asked what it waits for, and refuses connections that are too many."""

    most_connections = 4096

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wait: tuple[Waits, object, int] | None = None
        self._since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it at once where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()

    def waits_since(self, now: float) -> tuple[Waits, float] | None:
        """What it has been seen waiting for without any progress, and since when; None where it is not the client."""
        wait = self._waits()
        if wait != self._wait:
            self._wait, self._since = wait, now
        return None if wait is None else (wait[0], self._since)

    def _waits(self) -> tuple[Waits, object, int] | None:
        """For what, in which request, and how much is still to be read by the client."""
        cycle = cast("Any", self.cycle)
        unread = self.transport.get_write_buffer_size()
        if self.transport.is_closing():
            return "end", cycle, unread
        if cycle is None or cycle.response_complete:
            resting = self.timeout_keep_alive_task is not None and not unread
            return None if resting or self.pipeline else ("answer" if unread else "head", cycle, unread)
        if self.flow.write_paused:
            return "answer", cycle, unread
        return ("body", cycle, 0) if cycle.more_body and not self.flow.read_paused else None


def watched_protocol(patience: Patience) -> type[WatchedProtocol]:
    """The protocol for `uvicorn.Config`, with as many connections as are allowed here."""
    most = patience.connections
    if sys.platform != "win32":
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY:
            most = max(1, min(most, files - _FILES_FOR_OTHERS))
    return type("LimitedProtocol", (WatchedProtocol,), {"most_connections": most})


async def close_slow_connections(connections: set[Any], patience: Patience) -> None:
    """Close what has been waited for too long, until cancelled.

    Args:
        connections: Those of the server, `uvicorn.Server.server_state.connections`.
        patience: How long to wait for whom.
    """
    every_s = min(_LOOK_EVERY_S, patience.head_s, patience.body_s, patience.read_s)
    while True:
        await asyncio.sleep(every_s)
        now = time.monotonic()
        closed: dict[Waits, int] = {}
        for connection in list(connections):
            waiting = connection.waits_since(now)
            if waiting is not None and now - waiting[1] >= patience.longest_s(waiting[0]):
                closed[waiting[0]] = closed.get(waiting[0], 0) + 1
                connection.transport.abort()
        if closed:
            # One line for all of them: who opens thousands shall not fill the log as well.
            log.warning("slow_clients", **closed)
