"""Presents parts to the service when they are due, whether earlier ones were answered or not."""

import asyncio
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from cli.simulated_line.controller import Answer, Controller
from cli.simulated_line.conveyor import Part
from cli.simulated_line.summary import Summary
from cli.simulated_line.tally import Tally
from service.client import FieldError, NotAllowedError, ServiceError, UnknownError

_OF_EVERY_PART: Final = (FieldError, NotAllowedError, UnknownError)
"""What the service refuses this way it refuses of every part alike."""


class Line:
    """A line of stations, each with its controller.

    It is an open loop: nothing that the service does makes the next part come later. What comes too late is counted
    from when the part was due, so that a service that stands still shows in every part that waited for it.

    Args:
        controllers: By the names of their stations.
        tally: Counts what becomes of the parts.
    """

    def __init__(self, controllers: Mapping[str, Controller], tally: Tally) -> None:
        self._controllers = controllers
        self._tally = tally
        self._start = 0.0
        self._ended: float | None = None
        self._stopping = asyncio.Event()
        self.refusal: ServiceError | None = None
        """Why the service refuses every part, where it does; the line was stopped then."""

    def summary(self) -> Summary:
        """What the line has seen so far."""
        if self._ended is not None:
            return self._tally.summary(self._ended, whole=True)
        return self._tally.summary(asyncio.get_running_loop().time() - self._start)

    @property
    def is_stopping(self) -> bool:
        """Whether no more parts come."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let no more parts come; those under way are waited for."""
        self._stopping.set()

    async def run(self, parts: Iterable[Part], *, count: int | None = None, duration_s: float | None = None) -> None:
        """Present parts until there were so many, or for so long, or until the line is stopped."""
        clock = asyncio.get_running_loop().time
        self._start = clock()
        limited: Iterator[Part] = itertools.islice(parts, count)
        if duration_s is not None:
            limited = itertools.takewhile(lambda part: part.due_s < duration_s, limited)
        try:
            async with asyncio.TaskGroup() as presenting:
                for part in limited:
                    if await self._is_stopped_by(self._start + part.due_s):
                        break
                    self._tally.posted += 1
                    presenting.create_task(self._present(part))
        finally:
            self._ended = clock() - self._start

    async def _present(self, part: Part) -> None:
        presented = await self._controllers[part.station].present(part, self._start + part.due_s)
        self._tally.add(presented, asyncio.get_running_loop().time() - self._start)
        self._check(presented.answer)

    def _check(self, answer: Answer) -> None:
        if isinstance(answer, _OF_EVERY_PART) and self.refusal is None:
            self.refusal = answer
            self.stop()

    async def _is_stopped_by(self, moment: float) -> bool:
        """Wait until then, or until the line is stopped; whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(moment):
                await self._stopping.wait()
        return self.is_stopping


@contextmanager
def stopped_by_signals(line: Line, running: asyncio.Task[None]) -> Iterator[None]:
    """Stop the line that runs at the first Ctrl-C or SIGTERM; a second one gives up what is under way."""
    loop = asyncio.get_running_loop()
    ways: Iterator[Callable[[], object]] = iter((line.stop,))

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        loop.call_soon_threadsafe(next(ways, running.cancel))

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
