import asyncio
import csv
import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_type_hints

import pytest
from client_answers import Told, answer
from serving import DEFECTIVE, GOOD, Line

from service.client import AsyncInspectionClient, FieldError, InspectionClient, NotEvaluated, UnknownError
from service.client import records as client_records
from service.client.answers import InspectionPage, ListedInspection
from service.records.query import ListQuery
from service.reply import ListedRecord, RecordPage


@pytest.fixture
def client(line: Line) -> Iterator[InspectionClient]:
    with InspectionClient(line.url) as client:
        yield client


def inspected(client: InspectionClient, count: int) -> list[str]:
    return [client.inspect(GOOD, serial=f"A{number}", lot="L1").id for number in range(count)]


def test_all_inspections_are_iterated_a_page_at_a_time(
    client: InspectionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.asynchronous.PAGE", 3)
    ids = inspected(client, 7)[::-1]
    assert [each.id for each in client.inspections()] == ids
    assert [each.id for each in client.inspections(limit=4)] == ids[:4]
    assert [each.id for each in client.inspections(limit=6)] == ids[:6]
    assert list(client.inspections(limit=0)) == []
    assert list(client.inspections(lot="none")) == []


def test_iteration_may_end_early(client: InspectionClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.asynchronous.PAGE", 1)
    ids = inspected(client, 3)
    for each in client.inspections():
        assert each.id == ids[-1]
        break
    assert next(client.inspections()).serial == "A2"


def test_pages_have_cursors(client: InspectionClient) -> None:
    ids = inspected(client, 3)[::-1]
    first = client.inspection_page(limit=2)
    assert ([each.id for each in first.items], first.next is None) == (ids[:2], False)
    second = client.inspection_page(limit=2, cursor=first.next)
    assert ([each.id for each in second.items], second.next) == (ids[2:], None)


def test_filters(client: InspectionClient) -> None:
    good = client.inspect(GOOD, station="s1", lot="L1", serial="A1")
    bad = client.inspect(DEFECTIVE, station="s2", lot="L2", serial="A2")
    client.review(bad.id, "confirmed")
    now = datetime.now(UTC)

    def found(**filters: object) -> list[str]:
        return [each.id for each in client.inspections(**filters)]  # type: ignore[arg-type]

    assert found(verdict="fail") == found(station="s2") == found(lot="L2") == found(serial="A2") == [bad.id]
    assert found(review="confirmed") == [bad.id]
    assert found(review="none") == [good.id]
    assert found(recipe="tec-grain", since=now - timedelta(hours=1)) == [bad.id, good.id]
    assert found(since=now + timedelta(hours=1)) == found(until=now - timedelta(hours=1)) == []
    with pytest.raises(FieldError):
        found(verdict="perhaps")
    with pytest.raises(FieldError):
        client.inspection_page(cursor="nonsense")


def test_table(client: InspectionClient) -> None:
    ids = inspected(client, 3)[::-1]
    rows = list(csv.DictReader(io.StringIO(client.inspections_csv().decode())))
    assert [row["id"] for row in rows] == ids
    assert len(client.inspections_csv(limit=1, lot="L1").splitlines()) == 2
    with pytest.raises(FieldError):
        client.inspections_csv(limit=0)


def test_review(client: InspectionClient) -> None:
    verdict = client.inspect(DEFECTIVE)
    record = client.review(verdict.id, "false_reject", "only dust")
    assert record.review is not None
    assert (record.review.review, record.review.note, record.verdict) == ("false_reject", "only dust", "fail")
    assert client.record(verdict.id).review == record.review
    with pytest.raises(UnknownError):
        client.review("01JD8Z7Q4N5R6S7T8V9W0X1Y2Z", "confirmed")
    with pytest.raises(FieldError):
        client.review(verdict.id, "confirmed", "x" * 3000)


def test_asynchronous_client(line: Line) -> None:
    async def scenario() -> None:
        async with AsyncInspectionClient(line.url) as client:
            verdict = await client.inspect(GOOD)
            assert [each.id async for each in client.inspections()] == [verdict.id]
            assert (await client.inspection_page()).items[0].passed
            assert (await client.review(verdict.id, "confirmed")).passed
            assert verdict.id.encode() in await client.inspections_csv()

    asyncio.run(scenario())


def test_closed_client_ends_an_iteration(line: Line) -> None:
    client = InspectionClient(line.url)
    inspected(client, 2)
    listing = client.inspections()
    next(listing)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(listing)


def test_close_ends_what_another_thread_waits_for(line: Line) -> None:
    client = InspectionClient(line.url)
    ended: list[BaseException] = []

    def listen() -> None:
        try:
            for _ in client.events():
                waiting.set()
        except RuntimeError as error:
            ended.append(error)

    waiting = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    while not waiting.wait(0.01):
        client.inspect(GOOD)
    client.close()
    thread.join()
    assert "closed" in str(ended[0])


@pytest.mark.parametrize("body", [{"items": [{}], "next": None}, {"items": []}, []])
def test_page_that_is_none(body: object) -> None:
    with InspectionClient("http://station", transport=Told(answer(body))) as client, pytest.raises(NotEvaluated):
        client.inspection_page()


def test_table_that_is_none() -> None:
    with InspectionClient("http://station", transport=Told(answer({}))) as client, pytest.raises(NotEvaluated):
        client.inspections_csv()


def test_client_knows_what_the_service_knows() -> None:
    assert set(get_type_hints(client_records.Filters)) == set(ListQuery.model_fields) - {"limit", "cursor"}
    assert set(InspectionPage.model_fields) == set(RecordPage.model_fields)
    assert set(ListedInspection.model_fields) == set(ListedRecord.model_fields)
