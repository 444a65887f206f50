"""Group commit: one thread writes all records that wait in one transaction, and answers when it is on disk.

A request waits for its record until its deadline and no longer. One timer does for all of them: it is set for the
earliest deadline there is, and mostly finds that request answered.
"""

import asyncio
import math
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from service.records.database import RecordError, is_lost, reason_of
from service.records.insertion import insertion_for
from service.records.inspection import Inspection
from service.records.schema import inspections

__all__ = ["DuplicateKeyError", "RecordError", "RecordLateError", "RecordWriter"]

log = structlog.get_logger(__name__)

MAX_GROUP = 256
"""Most records of one transaction."""
_PATIENCE_S: Final = 5.0
"""How long a group waits for a server that is being restarted; those after it do not wait for one that stays away."""
_RETRY_S: Final = 0.1


class DuplicateKeyError(Exception):
    """Another inspection with the same request key is recorded already."""


class RecordLateError(Exception):
    """The deadline passed before the inspection was on disk.

    Args:
        written: Done when it is, or with the error that `RecordWriter.write` would have raised; to be awaited.
    """

    def __init__(self, written: asyncio.Future[None]) -> None:
        super().__init__("the deadline passed before the record was on disk")
        self.written = written


@dataclass(slots=True, eq=False)
class _Pending:
    inspection: Inspection
    deadline: float
    written: asyncio.Future[None]
    """What is waited for now."""


class RecordWriter:
    """Writes inspections through an engine, those that arrive during a commit together in the next one."""

    def __init__(self, engine: Engine) -> None:
        if engine.dialect.name == "postgresql":
            # A group is one statement, and so a transaction of its own: one message to the server instead of three.
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._engine = engine
        self._connection: Connection | None = None
        self._insertion = insertion_for(engine.dialect)
        self._reached = True
        """Whether there was a server the last time."""
        self._pending: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._unanswered: dict[_Pending, None] = {}
        self._next_look = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)
        self._thread.start()

    async def write(self, inspection: Inspection, deadline: float = math.inf) -> None:
        """Write one inspection; when this returns, it is on disk.

        Args:
            inspection: What to write; it will be, also when the caller does not wait any more.
            deadline: On the clock of `time.monotonic`; how long to wait.

        Raises:
            DuplicateKeyError: Its request key is taken.
            RecordError: The database refused.
            RecordLateError: The deadline passed before either was known.
        """
        loop = asyncio.get_running_loop()
        pending = _Pending(inspection, deadline, loop.create_future())
        self._unanswered[pending] = None
        if deadline < self._next_look:
            self._look_at(deadline, loop)
        self._pending.put(pending)
        await pending.written

    def close(self) -> None:
        """Write what waits, then stop."""
        self._pending.put(None)
        self._thread.join()

    def _look_at(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_look = when
        self._timer = loop.call_at(when, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those whose deadline has passed."""
        self._next_look, self._timer = math.inf, None
        now = time.monotonic()
        for pending in [pending for pending in self._unanswered if pending.deadline <= now]:
            del self._unanswered[pending]
            given_up, pending.written = pending.written, loop.create_future()
            if not given_up.done():
                given_up.set_exception(RecordLateError(pending.written))
        earliest = min((pending.deadline for pending in self._unanswered), default=math.inf)
        if earliest < math.inf:
            self._look_at(earliest, loop)

    def _run(self) -> None:
        self._write_groups()
        self._disconnect()

    def _write_groups(self) -> None:
        while (first := self._pending.get()) is not None:
            group = [first]
            closing = False
            while len(group) < MAX_GROUP and not self._pending.empty():
                following = self._pending.get()
                if following is None:
                    closing = True
                    break
                group.append(following)
            self._commit(group)
            if closing:
                return

    def _commit(self, group: Sequence[_Pending]) -> None:
        try:
            self._insert([pending.inspection for pending in group])
        except IntegrityError as error:
            if len(group) > 1:
                # One duplicate must not take its neighbours' records with it.
                for pending in group:
                    self._commit([pending])
            else:
                self._settle(group, self._refused(group[0].inspection, error))
        except Exception as error:  # the thread must outlive any failure, or every later request would hang
            log.exception("records_not_written", count=len(group))
            self._settle(group, _failure(error))
        else:
            self._settle(group, None)

    def _insert(self, group: Sequence[Inspection]) -> None:
        """Insert and commit; where the server went away, on a new connection once it is back."""
        patient_until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._insert_once(group)
            except DBAPIError as error:
                if not is_lost(error):
                    raise
                if not self._reached or time.monotonic() >= patient_until:
                    self._reached = False
                    raise
                log.warning("records_reconnecting", reason=reason_of(error))
                time.sleep(_RETRY_S)
            else:
                self._reached = True
                return

    def _insert_once(self, group: Sequence[Inspection]) -> None:
        # Held from one group to the next: to take it from the pool and give it back costs as much as to commit.
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                self._insertion.execute(self._connection, group)
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _refused(self, inspection: Inspection, error: IntegrityError) -> Exception | None:
        """Why the database refused an inspection; it is there already if the server went away after its commit."""
        try:
            with self._engine.connect() as connection:
                found = connection.execute(select(inspections.c.id).where(inspections.c.id == inspection.id)).first()
        except SQLAlchemyError as another:
            return _failure(another)
        return DuplicateKeyError(str(error.orig)) if found is None else None

    def _settle(self, group: Sequence[_Pending], error: Exception | None) -> None:
        """Tell the waiting requests, from the writer's thread: one call for all of an event loop, they wake it up."""
        loops = {pending.written.get_loop() for pending in group}
        for loop in loops:
            told = [pending for pending in group if pending.written.get_loop() is loop]
            loop.call_soon_threadsafe(self._tell, told, error)

    def _tell(self, group: Sequence[_Pending], error: Exception | None) -> None:
        for pending in group:
            self._unanswered.pop(pending, None)
            if pending.written.done():
                continue
            if error is None:
                pending.written.set_result(None)
            else:
                pending.written.set_exception(error)


def _failure(error: Exception) -> RecordError:
    reason = reason_of(error) if isinstance(error, SQLAlchemyError) else type(error).__name__
    return RecordError(f"the record could not be written: {reason}")
