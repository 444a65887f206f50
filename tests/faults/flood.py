"""Requests that come at a pace of their own, whether earlier ones are answered or not."""

import asyncio
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

import httptools

MOST_CONNECTIONS = 400


@dataclass
class Answers:
    """What came back: times by status, in seconds from sending to the end of the answer."""

    took_s: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: float = 0.0
    """That requests were sent for."""
    verdicts: int = 0
    """That came in this time; those behind it only count among the times."""
    without_retry_after: int = 0
    """Refusals that did not say when to come again."""
    held_back: int = 0
    """Requests that were not sent, for want of a connection that did not wait."""
    broken: int = 0

    @property
    def goodput(self) -> float:
        """Verdicts a second."""
        return self.verdicts / self.seconds

    @property
    def offered(self) -> float:
        """Requests a second that were sent."""
        return sum(map(len, self.took_s.values())) / self.seconds


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, free: deque["_Connection"], answers: Answers) -> None:
        self._free = free
        self._answers = answers
        self._parser = httptools.HttpResponseParser(self)
        self._retry_after = False
        self._sent: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._free.append(self)

    def post(self, request: bytes) -> bool:
        if self._transport.is_closing():
            return False
        self._sent = time.monotonic()
        self._transport.write(request)
        return True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, _: bytes) -> None:
        self._retry_after |= name.lower() == b"retry-after"

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        assert self._sent is not None
        self._answers.took_s[status].append(time.monotonic() - self._sent)
        self._answers.without_retry_after += status in (429, 503) and not self._retry_after
        self._sent, self._retry_after = None, False
        self._parser = httptools.HttpResponseParser(self)
        self._free.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._answers.broken += self._sent is not None

    def close(self) -> None:
        self._transport.close()


async def flood(port: int, request: bytes, *, rate: float | None, clients: int, seconds: float) -> Answers:
    """Post for some seconds, `rate` requests a second; without a rate each client posts when it was answered."""
    answers = Answers()
    free: deque[_Connection] = deque()
    loop = asyncio.get_running_loop()

    async def connect() -> None:
        await loop.create_connection(lambda: _Connection(free, answers), "127.0.0.1", port)

    everyone = clients if rate is None else MOST_CONNECTIONS
    for _ in range(everyone):
        await connect()
    began = time.monotonic()
    sent = 0
    while (passed := time.monotonic() - began) < seconds:
        due = len(free) if rate is None else round(passed * rate) - sent
        for _ in range(due):
            sent += 1
            while free and not free[0].post(request):
                free.popleft()  # the service closed it meanwhile
            if not free:
                answers.held_back += 1
                continue
            free.popleft()
        await asyncio.sleep(0.001)
    answers.seconds, answers.verdicts = time.monotonic() - began, len(answers.took_s[200])
    for _ in range(200):
        if len(free) >= everyone:
            break
        await asyncio.sleep(0.01)
    for connection in free:
        connection.close()
    await asyncio.sleep(0.05)
    return answers
