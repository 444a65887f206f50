"""Brings a database to the tables of this version, in one transaction and one process at a time."""

import io
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, inspect

from service.records.database import RecordError, writing

log = structlog.get_logger(__name__)

_STEPS: Final = Path(__file__).parent / "migrations"
_FIRST: Final = "0001"
"""The tables of databases from before there were versions."""
_NEWEST: Final = "head"
_FIRST_COLUMNS: Final = frozenset(
    {
        *("id", "created", "request_key", "station", "lot", "serial", "trigger", "recipe", "recipe_version"),
        *("model", "model_version", "model_digest", "result", "code", "verdict", "score", "raw_score", "threshold"),
        *("regions", "timing", "image_sha256", "image_width", "image_height", "layout", "detail"),
    }
)
_LOCK: Final = 0x6174736E6574
"""The name of the lock in PostgreSQL, `atsnet` in ASCII."""


def migrate(engine: Engine) -> None:
    """Make or change the tables, or leave them alone where they are as they should be.

    A database without a version whose inspections are those of the first step keeps them.

    Raises:
        RecordError: A later version of this software made the tables, or something else did.
        sqlalchemy.exc.SQLAlchemyError: The database refused; nothing has changed.
    """
    # Heavy, and needed once in the life of a process.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        config = Config(stdout=io.StringIO())
        config.set_main_option("script_location", str(_STEPS).replace("%", "%%"))
        config.attributes["connection"] = connection
        known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None and inspect(connection).has_table("inspections"):
            _check_first(connection)
            command.stamp(config, _FIRST)
        elif current is not None and current not in known:
            raise RecordError(
                f"its tables are of version {current}, and this software knows them up to {max(known)}: "
                "a later one made them; use that one, or another database"
            )
        command.upgrade(config, _NEWEST)
        now = MigrationContext.configure(connection).get_current_revision()
    if now != current:
        log.info("records_migrated", before=current, now=now)


def _check_first(connection: Connection) -> None:
    columns = {column["name"] for column in inspect(connection).get_columns("inspections")}
    if columns != _FIRST_COLUMNS:
        differing = ", ".join(sorted(columns ^ _FIRST_COLUMNS))
        raise RecordError(f"its table of inspections is none of this software's; columns that differ: {differing}")
