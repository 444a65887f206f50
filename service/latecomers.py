"""Records that were not on disk when their requests had to be answered: what is left to do once they are."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from service.records.inspection import Inspection
from service.records.writer import DuplicateKeyError, RecordError

log = structlog.get_logger(__name__)


class Latecomers:
    """Sees records through whose requests were answered that it is too late. Belongs to one event loop.

    They stay admitted until they are written, so that a database that is locked for long is no growing queue.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Records that are still being written."""
        return len(self._tasks)

    def follow(
        self,
        inspection: Inspection,
        written: asyncio.Future[None],
        then: Callable[[], None],
        claim: AsyncExitStack | None = None,
    ) -> None:
        """Wait for a record in the place of its request.

        Args:
            inspection: What is being written.
            written: Done when it is on disk, or is known not to be.
            then: What is to be done once it is.
            claim: What is held until then: a retry waits, and gets what was recorded.
        """
        log.warning("recorded_late", id=inspection.id, station=inspection.station, serial=inspection.serial)
        task = asyncio.create_task(_see_through(inspection, written, then, claim))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def gone(self) -> None:
        """Wait until nothing is being written any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)


async def _see_through(
    inspection: Inspection, written: asyncio.Future[None], then: Callable[[], None], claim: AsyncExitStack | None
) -> None:
    async with claim or AsyncExitStack():
        try:
            await written
        except DuplicateKeyError:  # another process was faster, and its verdict is the one that counts
            return
        except RecordError as error:
            log.error("late_record_not_written", id=inspection.id, reason=str(error))
            return
        then()
