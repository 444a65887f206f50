"""The records on disk: SQLite in WAL mode, every commit flushed to the disk before it counts."""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Engine, create_engine, event, select
from sqlalchemy.exc import SQLAlchemyError

from service.records.inspection import Inspection
from service.records.schema import from_row, inspections, metadata
from service.records.writer import RecordError, RecordWriter

_READERS: Final = 4
"""Threads that read; with the writer's, as many connections as SQLAlchemy's pool keeps open."""


class RecordReader:
    """Reads inspections; any number of processes may.

    Args:
        path: The database file, that of a `RecordStore`.
    """

    def __init__(self, path: Path) -> None:
        self.engine = _open_sqlite(path)
        # Their own: no picture that is drawn for a person may hold up the look for an earlier verdict.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="record-reader")

    async def get(self, inspection_id: str) -> Inspection | None:
        """The inspection of that id, if there is one."""
        return await self._read(inspections.c.id == inspection_id)

    async def find(self, request_key: str) -> Inspection | None:
        """The inspection that a request with that key was answered with, if there is one."""
        return await self._read(inspections.c.request_key == request_key)

    async def find_any(self, request_keys: Sequence[str]) -> Inspection | None:
        """An inspection that a request with one of those keys was answered with, if there is one."""
        return await self._read(inspections.c.request_key.in_(request_keys))

    def close(self) -> None:
        """Close the database."""
        self._readers.shutdown()
        self.engine.dispose()

    async def _read(self, condition: ColumnElement[bool]) -> Inspection | None:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._first, condition)

    def _first(self, condition: ColumnElement[bool]) -> Inspection | None:
        with self.engine.connect() as connection:
            row = connection.execute(select(inspections).where(condition)).first()
        return None if row is None else from_row(row)


class RecordStore(RecordReader):
    """Reads and writes inspections.

    Args:
        path: The database file; made with its tables where there is none.

    Raises:
        RecordError: The file cannot be opened, or is no database.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            metadata.create_all(self.engine)
        except SQLAlchemyError as error:
            super().close()
            raise RecordError(f"{path} cannot be used as the record database: {error.__cause__ or error}") from error
        self._writer = RecordWriter(self.engine)

    async def write(self, inspection: Inspection) -> None:
        """Write one inspection; when this returns, it survives a crash of the process or the machine.

        Raises:
            DuplicateKeyError: Its request key is taken.
            RecordError: The database refused.
        """
        await self._writer.write(inspection)

    def close(self) -> None:
        """Write what waits and close the database."""
        self._writer.close()
        super().close()


def _open_sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", json_serializer=_to_json, json_deserializer=orjson.loads)
    event.listen(engine, "connect", _configure)
    return engine


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _configure(connection: sqlite3.Connection, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA journal_mode = WAL")
    # In WAL mode NORMAL loses the last commits with the power; an answered verdict must survive that.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
