"""Rows into the table of inspections: a whole group by one statement, in the form that each database takes best.

Both forms are found once instead of for every row, and give the interpreter's lock away once a group: it is the lock
that the event loop, which answers requests meanwhile, would wait for.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import orjson
from sqlalchemy import Connection, insert
from sqlalchemy.engine import Dialect

from service.records.inspection import Inspection
from service.records.schema import inspections, to_row


class Insertion(Protocol):
    """The statement for one kind of database."""

    def execute(self, connection: Connection, group: Sequence[Inspection]) -> None:
        """Insert rows, all of them or none.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The database refused.
        """


def insertion_for(dialect: Dialect) -> Insertion:
    """What a database takes best."""
    return _AsDocument() if dialect.name == "postgresql" else _AsParameters(dialect)


class _AsParameters:
    """One parameter a value, as SQLite's driver has them.

    With `executemany` it would give the interpreter's lock away, and wait for it again, at every row. The dialect's
    text and the way in which each type becomes what the driver takes are SQLAlchemy's.
    """

    def __init__(self, dialect: Dialect) -> None:
        compiled = insert(inspections).compile(dialect=dialect)
        before, _, self._values = str(compiled).partition(" VALUES ")
        self._before = f"{before} VALUES "
        self._columns: list[tuple[str, Callable[[Any], Any] | None]] = [
            (name, inspections.columns[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup or ()
        ]

    def execute(self, connection: Connection, group: Sequence[Inspection]) -> None:
        statement = self._before + ", ".join([self._values] * len(group))
        connection.exec_driver_sql(statement, tuple(self._parameters(group)))

    def _parameters(self, group: Sequence[Inspection]) -> list[Any]:
        parameters = []
        for inspection in group:
            row = to_row(inspection)
            for name, process in self._columns:
                parameters.append(row[name] if process is None else process(row[name]))
        return parameters


class _AsDocument:
    """The whole group as one JSON document, which PostgreSQL takes apart by the table's own types.

    The statement is the same for every group, so that the server plans it once, and the driver has one text to send
    instead of 25 values a row.
    """

    def __init__(self) -> None:
        names = ", ".join(inspections.columns.keys())
        source = "json_populate_recordset(NULL::inspections, %s::json)"
        self._statement = f"INSERT INTO inspections ({names}) SELECT {names} FROM {source}"

    def execute(self, connection: Connection, group: Sequence[Inspection]) -> None:
        document = orjson.dumps([to_row(inspection) for inspection in group])
        connection.exec_driver_sql(self._statement, (document.decode(),))
