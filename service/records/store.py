"""The records in their database: what every process reads of them, and what one process writes."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy import URL, ColumnElement, Connection, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from service.records.audit import Actor
from service.records.database import RecordError, describe, open_database, reason_of, writing
from service.records.inspection import Inspection, continue_after, first_id_beyond
from service.records.listing import latest_review
from service.records.migration import migrate
from service.records.retention import Retention
from service.records.review import add_review
from service.records.schema import from_row, inspections
from service.records.writer import RecordLateError, RecordWriter
from service.reply import Review, ReviewWord

_T = TypeVar("_T")

_READERS: Final = 4
"""Threads that read; with those for lists, the writer and the retention, fewer than SQLAlchemy's pool has room for."""
_LISTERS: Final = 2


class RecordReader:
    """Reads inspections, and writes what people say of them; any number of processes may.

    Every method raises `RecordError` where the database does not answer.

    Args:
        url: The database, that of a `RecordStore`; see `database.database_url`.

    Raises:
        RecordError: The database's driver is not installed.
    """

    def __init__(self, url: URL) -> None:
        self.engine = open_database(url)
        # Their own: nothing that is drawn or listed for a person may hold up the look for an earlier verdict.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="record-reader")
        self._listers = ThreadPoolExecutor(_LISTERS, thread_name_prefix="record-lister")

    async def get(self, inspection_id: str) -> Inspection | None:
        """The inspection of that id, if there is one."""
        return await self._read(lambda connection: _first(connection, inspections.c.id == inspection_id))

    async def find(self, request_key: str) -> Inspection | None:
        """The inspection that a request with that key was answered with, if there is one."""
        return await self._read(lambda connection: _first(connection, inspections.c.request_key == request_key))

    async def find_any(self, request_keys: Sequence[str]) -> Inspection | None:
        """An inspection that a request with one of those keys was answered with, if there is one."""
        return await self._read(lambda connection: _first(connection, inspections.c.request_key.in_(request_keys)))

    async def reviewed(self, inspection_id: str) -> tuple[Inspection, Review | None] | None:
        """The inspection of that id with the review that counts, if there is one."""

        def read(connection: Connection) -> tuple[Inspection, Review | None] | None:
            inspection = _first(connection, inspections.c.id == inspection_id)
            return None if inspection is None else (inspection, latest_review(connection, inspection_id))

        return await self._read(read)

    async def review(self, inspection_id: str, word: ReviewWord, note: str, actor: Actor) -> bool:
        """Write a review and its entry in the audit trail; whether there is such an inspection."""

        def write() -> bool:
            with writing(self.engine) as connection:
                return add_review(connection, inspection_id, word, note, actor)

        return await asyncio.get_running_loop().run_in_executor(self._listers, _attempt, write)

    async def listed(self, read: Callable[[Connection], _T]) -> _T:
        """What a function reads that may take its time."""
        return await asyncio.get_running_loop().run_in_executor(self._listers, _attempt, self._connected(read))

    def close(self) -> None:
        """Close the database."""
        self._readers.shutdown()
        self._listers.shutdown()
        self.engine.dispose()

    async def _read(self, read: Callable[[Connection], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, _attempt, self._connected(read))

    def _connected(self, read: Callable[[Connection], _T]) -> Callable[[], _T]:
        def connected() -> _T:
            with self.engine.connect() as connection:
                return read(connection)

        return connected


class RecordStore(RecordReader):
    """Reads and writes inspections; brings the database to the tables of this version first.

    Args:
        url: The database; an SQLite file is made where there is none.
        keep_days: Days after which inspections are deleted; `None` keeps them for ever.

    Raises:
        RecordError: The database cannot be reached or used.
    """

    def __init__(self, url: URL, keep_days: float | None = None) -> None:
        super().__init__(url)
        try:
            migrate(self.engine)
            with self.engine.connect() as connection:
                newest = newest_id(connection)
        except (SQLAlchemyError, RecordError) as error:
            super().close()
            reason = reason_of(error) if isinstance(error, SQLAlchemyError) else str(error)
            raise RecordError(f"{describe(url)} cannot be used as the record database: {reason}") from error
        if newest is not None:
            continue_after(newest)
        self.on_written: Callable[[], None] = lambda: None
        """Told after an inspection was written."""
        self._writer = RecordWriter(self.engine)
        self._retention = None if keep_days is None else Retention(self.engine, keep_days)

    async def write(self, inspection: Inspection, deadline: float = math.inf) -> None:
        """Write one inspection; when this returns, it survives a crash of the process or the machine.

        Args:
            inspection: What to write.
            deadline: On the clock of `time.monotonic`; how long to wait.

        Raises:
            DuplicateKeyError: Its request key is taken.
            RecordError: The database refused.
            RecordLateError: The deadline passed before either was known; it is still being written.
        """
        try:
            await self._writer.write(inspection, deadline)
        except RecordLateError as late:
            late.written.add_done_callback(lambda _: self.on_written())
            raise
        self.on_written()

    def close(self) -> None:
        """Write what waits and close the database."""
        if self._retention is not None:
            self._retention.close()
        self._writer.close()
        super().close()


def newest_id(connection: Connection) -> str | None:
    """The greatest id that a clock can have made, if there is one."""
    found = select(func.max(inspections.c.id)).where(inspections.c.id < first_id_beyond())
    newest: str | None = connection.execute(found).scalar()
    return newest


def _first(connection: Connection, condition: ColumnElement[bool]) -> Inspection | None:
    row = connection.execute(select(inspections).where(condition)).mappings().first()
    return None if row is None else from_row(row)


def _attempt(work: Callable[[], _T]) -> _T:
    """Do what may be done twice: a server's restart broke every connection there was, and the second one is new."""
    try:
        try:
            return work()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return work()
    except SQLAlchemyError as error:
        raise RecordError(f"the records cannot be reached: {reason_of(error)}") from error
