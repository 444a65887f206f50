"""A PostgreSQL server that is restarted, killed, missing or set up otherwise."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from postgres import Server, serving_postgres
from sqlalchemy import event
from test_records import inspection

from service.records import writer
from service.records.database import RecordError, database_url
from service.records.store import RecordReader, RecordStore
from service.records.writer import DuplicateKeyError

pytestmark = pytest.mark.postgres


@pytest.fixture
def server() -> Iterator[Server]:
    """One of the test's own, that may be ended."""
    with serving_postgres() as server:
        yield server


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def test_restart_loses_no_answered_verdict_and_no_request(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    url = database_url(server.new_database(), tmp_path)

    async def scenario() -> None:
        store, reader = RecordStore(url), RecordReader(url)
        answered, failed, going = [], [], True

        async def line(number: int) -> None:
            count = 0
            while going:
                one = inspection(f"{number} {(count := count + 1)}")
                try:
                    await store.write(one)
                except RecordError:
                    failed.append(one)
                else:
                    answered.append(one)

        lines = [asyncio.create_task(line(number)) for number in range(8)]
        for _ in range(2):
            before = len(answered)
            while len(answered) < before + 50:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.stop, how)
            await asyncio.to_thread(server.start)
        before = len(answered)
        while len(answered) < before + 50:
            await asyncio.sleep(0.01)
        going = False
        await asyncio.gather(*lines)
        assert failed == []
        for one in answered:
            assert await reader.get(one.id) == one
        store.close()
        reader.close()

    asyncio.run(scenario())


def test_commit_whose_answer_was_lost_is_no_duplicate(server: Server, tmp_path: Path) -> None:
    async def scenario() -> None:
        store = RecordStore(database_url(server.new_database(), tmp_path))
        await store.write(inspection("first"))
        one = inspection("k")

        def cut(*_: object) -> None:
            event.remove(store.engine, "after_cursor_execute", cut)
            with psycopg.connect(server.dsn("postgres"), autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'atsnet'"
                )
            raise psycopg.OperationalError("the connection was lost")

        event.listen(store.engine, "after_cursor_execute", cut)
        await store.write(one)
        assert await store.find("k") == one
        with pytest.raises(DuplicateKeyError):
            await store.write(inspection("k"))
        store.close()

    asyncio.run(scenario())


def test_server_that_stays_away_is_said_soon(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_PATIENCE_S", 0.3)

    async def scenario() -> None:
        store = RecordStore(database_url(server.new_database(), tmp_path))
        await asyncio.to_thread(server.stop)
        with pytest.raises(RecordError, match="could not be written"):
            await store.write(inspection())
        with pytest.raises(RecordError, match="cannot be reached"):
            await store.find("k")
        monkeypatch.setattr(writer, "_PATIENCE_S", 1e9)  # nobody waits again for what was not there before
        with pytest.raises(RecordError, match="could not be written"):
            await store.write(inspection())
        await asyncio.to_thread(server.start)
        one = inspection("k")
        await store.write(one)
        assert await store.find("k") == one
        store.close()

    asyncio.run(scenario())


def test_commits_wait_for_the_disk_whatever_the_server_s_default(postgres: Server, tmp_path: Path) -> None:
    url = database_url(postgres.new_database(), tmp_path)
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {url.database} SET synchronous_commit = off")
    store = RecordStore(url)
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    store.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"username": "nobody"}, 'role "nobody" does not exist'),
        ({"query": {"host": "/nowhere"}}, "No such file or directory"),
    ],
)
def test_start_that_fails_says_why_and_hides_the_password(
    postgres: Server, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    url = database_url(postgres.new_database(), tmp_path).set(password="sesame").set(**change)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=reason) as raised:
        RecordStore(url)
    assert "cannot be used as the record database" in str(raised.value)
    assert "sesame" not in str(raised.value)
    with suppress(RecordError):
        RecordReader(url).close()
