"""A record that waits for a locked database: its request is answered at the deadline, and a retry agrees with it."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest
from serving import DEFECTIVE, GOOD, Line, running, wait_until
from test_records import inspection

from service.records.writer import RecordError
from service.runtimes.fake import FakeRuntime
from service.settings import Settings
from service.station import Station

PART = {"station": "s1", "serial": "A1", "trigger": 5}
SOON: dict[str, Any] = {"deadline_ms": 1000}
"""Long enough for a verdict on a busy machine, which the record then keeps waiting."""


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Somebody else writes; what is asked within the block is answered before they have finished."""
    with closing(sqlite3.connect(settings.var / "records.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def recorded(line: Line) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = line.http.get("/v1/inspections").json()["items"]
    return items


def is_late(response: httpx.Response) -> bool:
    problem = response.json()
    return (response.status_code, problem["code"], problem["result"]) == (504, 41, 0) and "id" not in problem


def test_late_is_answered_at_the_deadline_and_a_retry_gets_the_verdict(line: Line, settings: Settings) -> None:
    with locked(settings):
        assert is_late(line.post(DEFECTIVE, PART | SOON))
        assert recorded(line) == []
        assert is_late(line.post(DEFECTIVE, PART | SOON)), "the retry waits for the record of the first"
    again = line.post(DEFECTIVE, PART).json()
    assert (again["verdict"], again["replayed"]) == ("fail", True)
    assert [item["id"] for item in recorded(line)] == [again["id"]]


def test_what_follows_a_record_follows_a_late_one(line: Line, settings: Settings) -> None:
    with locked(settings), line.http.stream("GET", "/v1/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "retry: 1000"
        assert is_late(line.post(DEFECTIVE, SOON))
        assert line.station.lingering == 1
    wait_until(lambda: not line.station.lingering)
    [item] = recorded(line)
    assert item["verdict"] == "fail"
    assert line.http.get(f"/v1/inspections/{item['id']}/image").content == DEFECTIVE
    assert 'inspect_verdicts_total{recipe="tec-grain",verdict="fail"} 1.0' in line.http.get("/metrics").text
    with line.http.stream("GET", "/v1/events", headers={"Last-Event-ID": "0" * 26}) as events:
        assert f"id: {item['id']}" in (text for text in events.iter_lines() if text.startswith("id:"))


def test_failure_of_the_engine_is_late_as_well(line: Line, runtime: FakeRuntime, settings: Settings) -> None:
    runtime.fail_next(RuntimeError("out of order"))
    with locked(settings):
        assert is_late(line.post(GOOD, PART | SOON))
    wait_until(lambda: [item["code"] for item in recorded(line)] == [50])
    assert line.post(GOOD, PART).json()["verdict"] == "pass"


def test_late_record_that_is_refused_leaves_the_key_free(
    line: Line, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    insertion = line.station.equipment.records._writer._insertion
    with locked(settings), monkeypatch.context() as disk:
        disk.setattr(type(insertion), "execute", lambda *_: _refuse(settings))
        assert is_late(line.post(DEFECTIVE, PART | SOON))
    wait_until(lambda: not line.station.lingering)
    assert recorded(line) == []
    again = line.post(DEFECTIVE, PART).json()
    assert (again["verdict"], again["replayed"]) == ("fail", False)


def _refuse(settings: Settings) -> None:
    with closing(sqlite3.connect(settings.var / "records.sqlite3", isolation_level=None)) as waiting:
        waiting.execute("BEGIN IMMEDIATE")
    raise RecordError("the disk is full")


def test_records_that_wait_are_no_growing_queue(settings: Settings, runtime: FakeRuntime) -> None:
    with running(settings.model_copy(update={"queue_size": 2}), runtime) as line, locked(settings):
        answers = [line.post(GOOD, {"deadline_ms": 50}) for _ in range(8)]
        most = line.station.max_in_flight
        assert [is_late(answer) for answer in answers] == [True] * most + [False] * (8 - most)
        assert {(answer.status_code, answer.json()["code"]) for answer in answers[most:]} == {(429, 40)}


def test_station_is_idle_when_late_records_are_written(settings: Settings) -> None:
    async def run() -> None:
        station = Station(settings, FakeRuntime())
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        station._latecomers.follow(inspection(), written, lambda: None)
        idle = asyncio.create_task(station.idle())
        await asyncio.sleep(0)
        assert not idle.done()
        written.set_result(None)
        await idle
        assert station.lingering == 0

    asyncio.run(run())
