"""How a database comes to the tables of this version, and that nothing recorded is lost or altered on the way."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, Table, insert, inspect, text
from sqlalchemy.exc import DBAPIError
from test_records import inspection

from service.records import migration
from service.records.audit import Actor
from service.records.database import RecordError, database_url, open_database
from service.records.migration import migrate
from service.records.schema import inspections, metadata, to_row
from service.records.store import RecordStore


@pytest.fixture
def engine(database: str, tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(database_url(database, tmp_path))
    yield engine
    engine.dispose()


def run_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the tables as they were before there were versions."""
    with monkeypatch.context() as patched:
        patched.setattr(migration, "_NEWEST", "0001")
        migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))


def version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def test_steps_lead_to_the_tables_that_the_code_expects(engine: Engine) -> None:
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_second_start_changes_nothing(engine: Engine) -> None:
    migrate(engine)
    before = version(engine)
    migrate(engine)
    assert version(engine) == before is not None


def test_database_from_before_the_versions_is_taken_over(
    engine: Engine, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_first(engine, monkeypatch)
    written = [replace(one, face=None, faces=None) for one in (inspection("k"), inspection())]
    rows = [{name: to_row(one)[name] for name in migration._FIRST_COLUMNS} for one in written]
    with engine.begin() as connection:
        connection.execute(insert(inspections), rows)
    assert version(engine) is None

    async def scenario() -> None:
        store = RecordStore(database_url(database, tmp_path))
        assert [await store.get(one.id) for one in written] == written
        assert await store.find("k") == written[0]
        await store.write(inspection())
        store.close()

    asyncio.run(scenario())
    assert version(engine) is not None


def test_table_of_something_else_is_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE inspections (id integer, colour text)"))
    with pytest.raises(RecordError, match=r"none of this software's.*colour"):
        migrate(engine)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["inspections"]


def test_database_of_a_later_version_is_left_alone(engine: Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RecordError, match=r"version 9999.*a later one made them"):
        migrate(engine)
    assert version(engine) == "9999"


def test_step_that_fails_leaves_nothing_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    create = op.create_table

    def fail(name: str, *arguments: object, **options: object) -> Table:
        if name == "audit":
            raise OSError("no space left on device")
        return create(name, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(op, "create_table", fail)
        with pytest.raises(OSError, match="no space"):
            migrate(engine)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    migrate(engine)


def test_processes_that_start_together_take_turns(database: str, tmp_path: Path) -> None:
    together = threading.Barrier(4)
    failures: list[Exception] = []

    def start() -> None:
        engine = open_database(database_url(database, tmp_path))
        together.wait()
        try:
            migrate(engine)
        except Exception as error:
            failures.append(error)
        engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def refused(connection: Connection, statement: str) -> bool:
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except DBAPIError as error:
        return "what is recorded is never altered" in str(error)
    return False


@pytest.mark.parametrize("table", ["inspections", "reviews", "audit"])
def test_what_is_recorded_is_never_altered(database: str, tmp_path: Path, table: str) -> None:
    store = RecordStore(database_url(database, tmp_path))
    written = inspection()

    async def scenario() -> None:
        await store.write(written)
        assert await store.review(written.id, "confirmed", "", Actor(None, None))

    asyncio.run(scenario())
    with store.engine.begin() as connection:
        assert refused(connection, f"UPDATE {table} SET created = created")
        assert refused(connection, f"DELETE FROM {table}")
        if connection.dialect.name == "sqlite":
            assert refused(connection, f"REPLACE INTO {table} SELECT * FROM {table}")
        else:
            assert refused(connection, f"TRUNCATE {table} CASCADE")
        assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 1
    store.close()
