"""The inspections as a stream, each after it is on disk, in the order of their ids, none twice and none left out.

What is sent is read back from the records: the database alone knows what is on disk, whichever process wrote it. A bell
rings when something was written; while nobody listens it has no clapper, and an inspection pays nothing. One task a
process then reads what is new, once for all of its clients.

An inspection gets its id right before it is written, ids only ever grow, and writing keeps their order. What lies after
an id that was read is therefore new, and nothing before it can still appear.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import orjson
import structlog
from sqlalchemy import Connection, select

from service import problems
from service.problems import Problem
from service.records.database import RecordError
from service.records.inspection import Inspection
from service.records.schema import from_row, inspections
from service.records.store import RecordReader, newest_id

log = structlog.get_logger(__name__)

_PAGE: Final = 200
_RETRY_S: Final = 1.0
_RETRY_AFTER_S: Final = 5


class Bell:
    """Rings when an inspection was written, for those who listen. Belongs to one event loop."""

    def __init__(self) -> None:
        self._listeners: set[Callable[[], None]] = set()
        self.on_listening: Callable[[bool], None] = lambda _: None
        """Told when the first listener comes and when the last one leaves."""

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def ring(self) -> None:
        """Tell that something was written."""
        for listener in self._listeners:
            listener()

    def add(self, listener: Callable[[], None]) -> None:
        """Listen: what is called only takes note, and does nothing to this bell."""
        self._listeners.add(listener)
        if len(self._listeners) == 1:
            self.on_listening(True)

    def remove(self, listener: Callable[[], None]) -> None:
        """Listen no longer."""
        self._listeners.discard(listener)
        if not self._listeners:
            self.on_listening(False)


@dataclass(frozen=True, slots=True)
class Event:
    """One inspection, or a piece of news, as it is sent."""

    id: str | None
    """Of the inspection; news have none, are not recorded and cannot be resumed from."""
    payload: bytes


class Subscription:
    """One client of a feed: what was handed out and is not taken yet, `most` events at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Event] = deque()
        self.woken = asyncio.Event()
        """Set when there is something to take, or to notice."""
        self.overrun = False
        """Whether more was handed out than may wait; what waited is gone then."""
        self.ended = False
        """Whether nothing more will come."""
        self.gone = False
        """Whether the client has left."""

    def hand_out(self, events: Sequence[Event]) -> None:
        """Add events, in order."""
        if len(self._waiting) + len(events) > self._most:
            self.overrun = True
            self._waiting.clear()
        elif not self.overrun:
            self._waiting.extend(events)
        self.woken.set()

    def take(self) -> list[Event]:
        """All that waits."""
        events = list(self._waiting)
        self._waiting.clear()
        return events

    def start_over(self) -> None:
        """Forget what waits, and that it was too much."""
        self._waiting.clear()
        self.overrun = False

    def leave(self) -> None:
        """Say that the client has left."""
        self.gone = True
        self.woken.set()

    def end(self) -> None:
        """Say that nothing more will come."""
        self.ended = True
        self.woken.set()


class Feed:
    """Hands out what is recorded to the clients of this process.

    Args:
        records: Where to read; raises `Problem` while there is nothing to read from.
        bell: Rings when something was written.
        idle: Waits until no inspection is under way.
        max_clients: Clients at the same time.
        max_waiting: Events that may wait for a client that is slow to take them.
    """

    def __init__(
        self,
        records: Callable[[], RecordReader],
        bell: Bell,
        idle: Callable[[], Awaitable[None]],
        *,
        max_clients: int,
        max_waiting: int = 1000,
    ) -> None:
        self._records = records
        self._bell = bell
        self._idle = idle
        self._max_clients = max_clients
        self._max_waiting = max_waiting
        self._clients: set[Subscription] = set()
        self._beginning: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._last = ""
        """Up to here everything was handed out to the clients there were."""
        self._rung = asyncio.Event()
        self._leaving = asyncio.Event()
        self._ending = False

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscription]:
        """Hand out to one more client for the block whatever is recorded from now on.

        Raises:
            Problem: Code 40: there are as many clients as may be, or nothing to read from.
        """
        if len(self._clients) >= self._max_clients:
            detail = f"{self._max_clients} clients listen already, which is the limit (setting max_event_clients)"
            raise Problem(problems.OVERLOADED, detail, retry_after_s=_RETRY_AFTER_S)
        subscription = Subscription(self._max_waiting)
        self._clients.add(subscription)
        try:
            if self._beginning is None:
                self._beginning = asyncio.create_task(self._begin())
            await asyncio.shield(self._beginning)
            yield subscription
        except RecordError as error:
            raise Problem(problems.NOT_READY, str(error), retry_after_s=_RETRY_AFTER_S) from error
        finally:
            self._clients.discard(subscription)
            if not self._clients:
                await self._stop()

    async def history(self, subscription: Subscription, after: str) -> AsyncIterator[list[Event]]:
        """What was recorded after an id, up to where what is handed out to the subscription begins.

        Raises:
            RecordError: The records cannot be read.
            Problem: Code 40: there is nothing to read from.
        """
        while True:
            subscription.start_over()
            until = self._last
            while after < until and (page := await self._read(after, until)):
                after = str(page[-1].id)
                yield page
            if not subscription.overrun:
                return

    def tell(self, name: str, document: bytes) -> None:
        """Hand news out to the clients there are.

        Args:
            name: Of the event.
            document: JSON, in one line.
        """
        news = [Event(None, b"event: %b\ndata: %b\n\n" % (name.encode(), document))]
        for client in self._clients:
            client.hand_out(news)

    def leave(self) -> None:
        """End all subscriptions once no inspection is under way, and its event was handed out."""
        self._leaving.set()

    async def _begin(self) -> None:
        """Find out where the records end now, and follow them from there."""
        newest = await self._records().listed(newest_id)
        self._last = newest or ""
        self._bell.add(self._rung.set)
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._end())]

    async def _stop(self) -> None:
        beginning, self._beginning = self._beginning, None
        tasks, self._tasks = self._tasks, []
        self._bell.remove(self._rung.set)
        for task in (beginning, *tasks):
            if task is not None:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            ending = self._ending
            try:
                while events := await self._read(self._last):
                    self._last = str(events[-1].id)
                    for client in self._clients:
                        client.hand_out(events)
            except (RecordError, Problem) as error:  # the records come back, or this process ends
                log.warning("events_not_read", reason=str(error))
                await asyncio.sleep(_RETRY_S)
                self._rung.set()
            if ending:
                for client in self._clients:
                    client.end()

    async def _end(self) -> None:
        await self._leaving.wait()
        await self._idle()
        self._ending = True
        self._rung.set()

    async def _read(self, after: str, until: str | None = None) -> list[Event]:
        return await self._records().listed(lambda connection: _events(connection, after, until))


def _events(connection: Connection, after: str, until: str | None) -> list[Event]:
    found = select(inspections).where(inspections.c.id > after).order_by(inspections.c.id).limit(_PAGE)
    if until is not None:
        found = found.where(inspections.c.id <= until)
    return [_event(from_row(row)) for row in connection.execute(found).mappings()]


def _event(inspection: Inspection) -> Event:
    document = orjson.dumps(inspection.reply().document(with_heatmap=False))
    return Event(inspection.id, b"id: %b\nevent: inspection\ndata: %b\n\n" % (inspection.id.encode(), document))
