"""Records that are old enough go, by one way alone, and the trail says so."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from serving import wait_until
from sqlalchemy import delete, event, func, select
from sqlalchemy.exc import DBAPIError
from test_records import inspection
from ulid import ULID

from service.records.audit import SERVICE, Actor, audit, entries
from service.records.database import database_url, writing
from service.records.inspection import Inspection
from service.records.retention import expire
from service.records.schema import inspections, reviews
from service.records.store import RecordStore

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def store(database: str, tmp_path: Path) -> Iterator[RecordStore]:
    store = RecordStore(database_url(database, tmp_path))
    yield store
    store.close()


def made(moment: datetime, **changes: object) -> Inspection:
    return replace(inspection(), id=str(ULID.from_datetime(moment)), created=moment, **changes)  # type: ignore[arg-type]


def write(store: RecordStore, written: list[Inspection]) -> None:
    async def scenario() -> None:
        await asyncio.gather(*(store.write(one) for one in written))

    asyncio.run(scenario())


def left(store: RecordStore) -> set[str]:
    with store.engine.connect() as connection:
        return set(connection.execute(select(inspections.c.id)).scalars())


def test_old_ones_go_with_their_reviews_and_the_trail_stays(store: RecordStore) -> None:
    old = [made(NOW - timedelta(days=n), request_key=f"k{n}") for n in range(1, 450)]
    young = [made(NOW + timedelta(days=n)) for n in range(3)]
    write(store, [*old, *young])

    async def review() -> None:
        for one in (old[0], old[-1], young[0]):
            assert await store.review(one.id, "confirmed", "", Actor("anna", "operator"))

    asyncio.run(review())
    transactions = 0

    def count(_: object) -> None:
        nonlocal transactions
        transactions += 1

    event.listen(store.engine, "commit", count)
    assert expire(store.engine, NOW, threading.Event()) == 449
    assert transactions >= 4
    assert left(store) == {one.id for one in young}
    with store.engine.connect() as connection:
        assert connection.execute(select(reviews.c.inspection_id)).scalars().all() == [young[0].id]
        trail = entries(connection)
    assert [entry.action for entry in trail] == ["reviewed"] * 3 + ["expired"]
    assert (trail[-1].actor, trail[-1].new) == ("service", {"before": NOW.isoformat(), "inspections": 449})
    write(store, [made(NOW + timedelta(days=9), request_key="k1")])


def test_nothing_old_leaves_no_trace(store: RecordStore) -> None:
    write(store, [made(NOW)])
    assert expire(store.engine, NOW - timedelta(days=1), threading.Event()) == 0
    with store.engine.connect() as connection:
        assert entries(connection) == []


def test_stops_between_two_transactions(store: RecordStore) -> None:
    write(store, [made(NOW - timedelta(minutes=n)) for n in range(1, 301)])
    closing = threading.Event()
    commits = iter(("the entry", "the first of them"))
    event.listen(store.engine, "commit", lambda _: closing.set() if next(commits) != "the entry" else None)
    assert expire(store.engine, NOW, closing) == 200
    assert len(left(store)) == 100


def test_database_refuses_what_the_trail_does_not_say(store: RecordStore) -> None:
    old, young = made(NOW - timedelta(days=1)), made(NOW)
    write(store, [old, young])
    with writing(store.engine) as connection:
        audit(connection, SERVICE, "expired", f"inspections/{young.id}")
    with pytest.raises(DBAPIError, match="never altered"), writing(store.engine) as connection:
        connection.execute(delete(inspections))
    assert left(store) == {old.id, young.id}
    with writing(store.engine) as connection:
        connection.execute(delete(inspections).where(inspections.c.id == old.id))
    assert left(store) == {young.id}


def test_store_that_keeps_some_days_forgets_the_older_ones(database: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    young, old = made(now - timedelta(days=1)), made(now - timedelta(days=3))
    url = database_url(database, tmp_path)
    store = RecordStore(url)
    write(store, [young, old])
    store.close()
    store = RecordStore(url, keep_days=2)
    wait_until(lambda: left(store) == {young.id})
    store.close()


def test_records_stay_for_ever_where_nothing_is_said(database: str, tmp_path: Path) -> None:
    write_once = RecordStore(database_url(database, tmp_path))
    write(write_once, [made(datetime(2000, 1, 1, tzinfo=UTC))])
    write_once.close()
    again = RecordStore(database_url(database, tmp_path))
    with again.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(inspections)).scalar() == 1
    assert not any(thread.name == "record-retention" for thread in threading.enumerate())
    again.close()
