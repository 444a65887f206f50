"""Rows into the table of inspections: a whole group by one statement.

SQLite's driver gives the interpreter's lock away at every row of `executemany` and waits for it again, against the
event loop that answers requests meanwhile; with one statement for the group it does so once. The dialect's text and
the way in which each type becomes what the driver takes are SQLAlchemy's, found once instead of for every row.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, insert
from sqlalchemy.engine import Dialect

from service.records.inspection import Inspection
from service.records.schema import inspections, to_row


class Insertion:
    """The statement for one kind of database with positional parameters, as SQLite's driver has them.

    Args:
        dialect: What is spoken there.
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
        """Insert rows, all of them or none.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The database refused.
        """
        statement = self._before + ", ".join([self._values] * len(group))
        connection.exec_driver_sql(statement, tuple(self._parameters(group)))

    def _parameters(self, group: Sequence[Inspection]) -> list[Any]:
        parameters = []
        for inspection in group:
            row = to_row(inspection)
            for name, process in self._columns:
                parameters.append(row[name] if process is None else process(row[name]))
        return parameters
