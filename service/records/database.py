"""The database of the records, by URL: SQLite in WAL mode or PostgreSQL, either with every commit on disk."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

log = structlog.get_logger(__name__)

_CONNECT_S: Final = 5
_SILENT_MS: Final = 10_000
"""A server that acknowledges nothing for so long has gone: its machine, or the way there."""

_AWAY: Final = frozenset({None, "57P01", "57P02", "57P03", "53300"})
"""Not reached at all; shutting down, crashed, starting, full (PostgreSQL, appendix A)."""


class RecordError(Exception):
    """The records cannot be opened, read or written; no verdict may be answered without a record."""


def database_url(given: str | None, var: Path) -> URL:
    """Where the records are.

    Args:
        given: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`; by default a file.
        var: Directory of that file.

    Raises:
        RecordError: It is no URL, or of a database that is not supported.
    """
    if given is None:
        return URL.create("sqlite", database=str(var / "records.sqlite3"))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):  # the text may hold a password
        raise RecordError("database_url is no URL, such as postgresql://USER:PASSWORD@HOST:5432/NAME") from None
    match url.drivername:
        case "sqlite" if url.database and url.database != ":memory:":
            return url
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
        case _:
            raise RecordError(
                f"database_url: {url.render_as_string()} is neither sqlite:///PATH nor postgresql://USER@HOST/NAME"
            )


def open_database(url: URL) -> Engine:
    """An engine for the records; nothing is connected yet.

    Raises:
        RecordError: The driver is not installed.
        OSError: The directory of an SQLite file cannot be made.
    """
    shared: dict[str, Any] = {"json_serializer": _to_json, "json_deserializer": orjson.loads}
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, **shared)
        event.listen(engine, "connect", _configure_sqlite)
        return engine
    patience = {
        "connect_timeout": _CONNECT_S,
        "keepalives_idle": _CONNECT_S,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": _SILENT_MS,
        "application_name": "atsnet",
    }
    try:
        engine = create_engine(url, **shared, connect_args={**patience, **url.query})
    except ImportError as error:
        raise RecordError("PostgreSQL needs a driver: pip install 'atsnet[postgres]'") from error
    event.listen(engine, "connect", _configure_postgresql)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: what it reads first is what it changes, since SQLite takes its lock at once."""
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


def describe(url: URL) -> str:
    """A database for a person to read: without the password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def reason_of(error: SQLAlchemyError) -> str:
    """What a database said, in one line and without the statement."""
    return " ".join(str(error.__cause__ or error).split())


def is_lost(error: DBAPIError) -> bool:
    """Whether the server is not there, went away, or lets nobody in for now; SQLite always is."""
    return error.connection_invalidated or getattr(error.orig, "sqlstate", "") in _AWAY


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _configure_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA journal_mode = WAL")
    # In WAL mode NORMAL loses the last commits with the power; an answered verdict must survive that.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    # Or REPLACE would delete a row behind the back of the triggers that forbid it.
    cursor.execute("PRAGMA recursive_triggers = ON")
    cursor.close()


def _configure_postgresql(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        fsync, waits_for = cursor.fetchone()
        if waits_for in ("off", "local"):  # the others wait for more than this server's disk
            cursor.execute("SET synchronous_commit = on")
    connection.commit()
    if fsync != "on":
        log.error(
            "records_not_durable", detail="the PostgreSQL server runs with fsync = off: a crash of it loses records"
        )
