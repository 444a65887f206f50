"""The records in their database: what every process reads of them, and what one process writes."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, TypeVar

from sqlalchemy import URL, ColumnElement, Connection, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from service.records.audit import Actor
from service.records.database import RecordError, describe, open_database, reason_of, writing
from service.records.inspection import Inspection
from service.records.listing import Filters, Page, latest_review, read_page
from service.records.migration import migrate
from service.records.retention import Retention
from service.records.review import add_review
from service.records.schema import from_row, inspections
from service.records.writer import RecordWriter
from service.reply import Review, ReviewWord

_T = TypeVar("_T")

_READERS: Final = 4
"""Threads that read; with the others, fewer connections than SQLAlchemy's pool may open."""
_LISTERS: Final = 2


class RecordReader:
    """Reads inspections, and writes what people say of them; any number of processes may.

    Args:
        url: The database, that of a `RecordStore`; see `database.database_url`.

    Raises:
        RecordError: The database's driver is not installed.
    """

    def __init__(self, url: URL) -> None:
        self.engine = open_database(url)
        # Their own: no picture that is drawn for a person may hold up the look for an earlier verdict, nor may a list.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="record-reader")
        self._listers = ThreadPoolExecutor(_LISTERS, thread_name_prefix="record-lister")

    async def get(self, inspection_id: str) -> Inspection | None:
        """The inspection of that id, if there is one.

        Raises:
            RecordError: The database does not answer, as for every other method.
        """
        return await self._read(inspections.c.id == inspection_id)

    async def find(self, request_key: str) -> Inspection | None:
        """The inspection that a request with that key was answered with, if there is one."""
        return await self._read(inspections.c.request_key == request_key)

    async def reviewed(self, inspection_id: str) -> tuple[Inspection, Review | None] | None:
        """The inspection of that id with the review that counts, if there is one."""

        def read(connection: Connection) -> tuple[Inspection, Review | None] | None:
            inspection = _first(connection, inspections.c.id == inspection_id)
            return None if inspection is None else (inspection, latest_review(connection, inspection_id))

        return await self._run(self._readers, self._reading, read)

    async def review(self, inspection_id: str, word: ReviewWord, note: str, actor: Actor) -> bool:
        """Write a review and its entry in the audit trail; whether there is such an inspection."""

        def write() -> bool:
            with writing(self.engine) as connection:
                return add_review(connection, inspection_id, word, note, actor)

        return await self._run(self._listers, _translated, write)

    async def page(self, filters: Filters, before: str | None, limit: int) -> Page:
        """A page of the inspections that fit; see `listing.read_page`."""
        return await self.listed(lambda connection: read_page(connection, filters, before, limit))

    async def listed(self, read: Callable[[Connection], _T]) -> _T:
        """What a function reads of the database, in a thread for that which may take its time."""
        return await self._run(self._listers, self._reading, read)

    def close(self) -> None:
        """Close the database."""
        self._readers.shutdown()
        self._listers.shutdown()
        self.engine.dispose()

    async def _read(self, condition: ColumnElement[bool]) -> Inspection | None:
        return await self._run(self._readers, self._reading, lambda connection: _first(connection, condition))

    async def _run(self, threads: ThreadPoolExecutor, how: Callable[[_A], _T], what: _A) -> _T:
        return await asyncio.get_running_loop().run_in_executor(threads, how, what)

    def _reading(self, read: Callable[[Connection], _T]) -> _T:
        return _translated(lambda: self._read_again(read))
