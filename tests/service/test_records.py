import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from benchmarks.records import sample
from service.records.database import database_url
from service.records.inspection import Inspection, is_id, new_id
from service.records.store import RecordStore
from service.records.writer import DuplicateKeyError, RecordError


def inspection(request_key: str | None = None) -> Inspection:
    return replace(
        sample(),
        created=datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC),
        request_key=request_key,
        station="s1",
        lot=None,
        serial="Ä1",
        trigger=2**63 - 1,
        score=1.23456789,
        face=2,
        faces=3,
    )


@pytest.fixture
def store(database: str, tmp_path: Path) -> Iterator[RecordStore]:
    store = RecordStore(database_url(database, tmp_path))
    yield store
    store.close()


def test_inspection_comes_back_as_it_was(store: RecordStore) -> None:
    written = inspection("k")

    async def scenario() -> None:
        await store.write(written)
        assert await store.get(written.id) == written
        assert await store.find("k") == written
        assert await store.reviewed(written.id) == (written, None)
        assert await store.get(new_id()) is None

    asyncio.run(scenario())


def test_what_is_not_known_stays_so(store: RecordStore) -> None:
    unknown = dict.fromkeys(("station", "lot", "serial", "trigger", "score", "raw_score", "detail", "face", "faces"))
    written = [replace(inspection(), **unknown, regions=()) for _ in range(3)]

    async def scenario() -> None:
        await asyncio.gather(*(store.write(one) for one in written))
        assert [await store.get(one.id) for one in written] == written

    asyncio.run(scenario())


def test_every_commit_is_on_the_disk(store: RecordStore) -> None:
    with store.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        else:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
            assert connection.exec_driver_sql("SHOW fsync").scalar() == "on"


def test_records_that_wait_are_committed_together(store: RecordStore) -> None:
    commits = 0
    first_commit, go_on = threading.Event(), threading.Event()

    def count(_: Connection) -> None:
        nonlocal commits
        commits += 1
        first_commit.set()
        assert go_on.wait(30)

    event.listen(store.engine, "commit", count)
    written = [inspection() for _ in range(20)]

    async def scenario() -> None:
        lone = asyncio.create_task(store.write(written[0]))
        await asyncio.to_thread(first_commit.wait, 30)
        rest = [asyncio.create_task(store.write(one)) for one in written[1:]]
        await asyncio.sleep(0)
        assert not lone.done()
        go_on.set()
        await asyncio.gather(lone, *rest)
        assert commits == 2
        assert [await store.get(one.id) for one in written] == written

    asyncio.run(scenario())


def test_duplicate_fails_alone_in_its_group(store: RecordStore) -> None:
    async def scenario() -> None:
        written = [inspection("a"), inspection("a"), inspection("b"), inspection(), inspection()]
        outcomes = await asyncio.gather(*(store.write(one) for one in written), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), DuplicateKeyError] + [type(None)] * 3
        assert await store.find("a") == written[0]
        assert await store.get(written[1].id) is None

    asyncio.run(scenario())


def test_writer_outlives_a_refusal(store: RecordStore) -> None:
    async def scenario() -> None:
        refused = replace(inspection(), trigger=2**80)
        with pytest.raises(RecordError):
            await store.write(refused)
        await store.write(inspection())

    asyncio.run(scenario())


def test_closing_writes_what_waits(database: str, tmp_path: Path) -> None:
    url = database_url(database, tmp_path)
    written = [inspection() for _ in range(50)]

    async def write_and_leave() -> None:
        store = RecordStore(url)
        tasks = [asyncio.create_task(store.write(one)) for one in written]
        await asyncio.sleep(0)
        await asyncio.to_thread(store.close)
        await asyncio.gather(*tasks)

    async def read() -> None:
        store = RecordStore(url)
        assert [await store.get(one.id) for one in written] == written
        store.close()

    asyncio.run(write_and_leave())
    asyncio.run(read())


def test_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite3"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(RecordError, match=r"records\.sqlite3 cannot be used"):
        RecordStore(database_url(None, path.parent))


@pytest.mark.parametrize("text", ["", "x", "../../etc/passwd", "01JD8Z7Q4N5R6S7T8V9W0X1Y2Z\n", "8" * 26, "u" * 26])
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)


def test_new_ids_are_ids_and_differ() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(is_id(one) for one in ids)
