"""Inspections as a stream of events, in both forms of the service."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from listening import clients, in_its_loop, listening, loop_of
from serving import DEFECTIVE, GOOD, Line, TwoSides, running, wait_until

from service.events import Event
from service.records.database import RecordError
from service.records.inspection import new_id
from service.runtimes.fake import FakeRuntime
from service.settings import Settings


def test_inspection_is_an_event_with_its_reply(line: Line) -> None:
    line.post(GOOD)  # before anybody listened
    with listening(line) as listener:
        assert listener.response.headers["Content-Type"].startswith("text/event-stream")
        reply = line.post(DEFECTIVE, {"serial": "Ä1", "trigger": 7, "heatmap": "png"}).json()
        event = listener.next()
    assert (event["event"], event["id"]) == ("inspection", reply["id"])
    assert list(event["data"]) == [key for key in reply if key != "heatmap"]
    untimed = {"ms", "timing_ms", "heatmap"}
    assert {key: value for key, value in event["data"].items() if key not in untimed} == {
        key: value for key, value in reply.items() if key not in untimed
    }


def test_errors_and_the_faces_of_a_batch_are_events_and_replays_are_none(line: Line, runtime: FakeRuntime) -> None:
    part = {"station": "s1", "serial": "A1", "trigger": "5"}
    with listening(line) as listener:
        runtime.fail_next(RuntimeError())
        failed = line.post(GOOD).json()["id"]
        faces = [("image", GOOD), ("image", DEFECTIVE)]
        batch = line.http.post("/v1/inspections:batch", files=faces, data=part).json()
        line.http.post("/v1/inspections:batch", files=faces, data=part)
        last = line.post(GOOD).json()["id"]
        event = listener.next()
        assert (event["id"], event["data"]["code"], event["data"]["result"]) == (failed, 50, 3)
        assert sorted(listener.take(2)) == sorted(face["id"] for face in batch["faces"])
        assert listener.next()["id"] == last


def test_every_listener_gets_everything_in_order(line: Line) -> None:
    with listening(line) as first, listening(line) as second, ThreadPoolExecutor(8) as pool:
        answered = {reply.json()["id"] for reply in pool.map(lambda _: line.post(GOOD), range(40))}
        got = first.take(40)
        assert got == second.take(40) == sorted(got)
        assert set(got) == answered


def test_resumes_after_the_last_event_without_gap_or_repeat(line: Line) -> None:
    old = [line.post(GOOD).json()["id"] for _ in range(5)]
    with listening(line, old[1]) as listener:
        assert listener.take(3) == old[2:]
        new = [line.post(GOOD).json()["id"] for _ in range(3)]
        assert listener.take(3) == new
    with listening(line, new[0]) as listener:
        assert listener.take(2) == new[1:]


def test_nothing_is_lost_or_told_twice_at_the_seam(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that come and go while inspections are recorded, and resume: history and news meet without a seam."""
    monkeypatch.setattr("service.events._PAGE", 3)
    stop = threading.Event()
    answered: list[str] = []

    def inspect() -> None:
        while not stop.is_set():
            answered.append(line.post(GOOD).json()["id"])

    first = line.post(GOOD).json()["id"]
    got: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        inspecting = [pool.submit(inspect) for _ in range(3)]
        for _ in range(12):
            with listening(line, got[-1] if got else first) as listener:
                got += listener.take(7)
        stop.set()
        for one in inspecting:
            one.result()
    with listening(line, got[-1]) as listener:
        got += listener.take(len(answered) - len(got))
    assert got == sorted(answered)


def test_restart_is_resumed_across(settings: Settings) -> None:
    with running(settings, FakeRuntime()) as line:
        old = [line.post(GOOD).json()["id"] for _ in range(3)]
    with running(settings, FakeRuntime()) as line, listening(line, old[0]) as listener:
        new = line.post(GOOD).json()["id"]
        assert listener.take(3) == [*old[1:], new]


def test_wrong_last_event_id(line: Line) -> None:
    response = line.http.get("/v1/events", headers={"Last-Event-ID": "42"})
    assert (response.status_code, response.json()["code"], response.json()["field"]) == (422, 13, "Last-Event-ID")
    assert clients(line) == 0


def test_id_from_the_future_waits_for_what_is_greater(line: Line) -> None:
    """Another worker may have told it to the client before this one read it."""
    with listening(line) as ahead, listening(line) as live:
        newer = line.post(GOOD).json()["id"]
        assert ahead.next()["id"] == live.next()["id"] == newer
    with listening(line, "7" + "Z" * 25) as listener, listening(line) as live:
        assert live.take(0) == []
        passed = line.post(GOOD).json()["id"]
        assert live.next()["id"] == passed
        in_its_loop(line, line.front.feed.leave)
        with pytest.raises(EOFError):
            listener.next()


def test_too_many_clients(settings: Settings, runtime: FakeRuntime, apart: bool) -> None:
    with running(settings.model_copy(update={"max_event_clients": 2}), runtime, apart=apart) as line:
        with listening(line) as first, listening(line) as second:
            refused = line.http.get("/v1/events")
            assert (refused.status_code, refused.json()["code"]) == (429, 40)
            assert int(refused.headers["Retry-After"]) >= 1
            inspected = line.post(GOOD).json()["id"]
            assert first.next()["id"] == second.next()["id"] == inspected
        wait_until(lambda: clients(line) == 0)
        with listening(line) as listener:
            inspected = line.post(GOOD).json()["id"]
            assert listener.next()["id"] == inspected


def test_silence_is_broken_by_comments(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.routes.events._HEARTBEAT_S", 0.02)
    with listening(line) as listener:
        assert [listener.comment() for _ in range(3)] == [": alive"] * 3
        inspected = line.post(GOOD).json()["id"]
        assert listener.next()["id"] == inspected


def test_client_that_leaves_is_noticed_in_silence(line: Line) -> None:
    with listening(line) as listener:
        assert listener.response.status_code == 200
        assert clients(line) == 1
        wait_until(lambda: line.station.bell.heard)
    wait_until(lambda: clients(line) == 0)
    # Nobody listens any more, in the engine's process either: the next inspection rings for nobody.
    wait_until(lambda: not line.station.bell.heard)


def test_streams_end_when_the_service_does_and_the_last_verdict_is_told(line: Line, runtime: FakeRuntime) -> None:
    with ThreadPoolExecutor(1) as pool, listening(line) as listener:
        runtime.block()
        accepted = pool.submit(line.post, GOOD)
        wait_until(lambda: line.front.in_flight == 1)
        in_its_loop(line, line.front.begin_drain)
        wait_until(lambda: line.front.state == "draining")
        refused = line.http.get("/v1/events")
        assert (refused.status_code, refused.json()["code"]) == (503, 40)
        runtime.release()
        assert listener.next()["id"] == accepted.result().json()["id"]
        assert listener.comment().startswith(": the service is shutting down")
        with pytest.raises(EOFError):
            listener.next()


async def record_one_more(line: Line, like: str) -> str:
    records = line.station.equipment.records
    inspection = await records.get(like)
    assert inspection is not None
    another = replace(inspection, id=new_id())
    await records.write(another)
    return another.id


def test_end_of_the_engine_leaves_no_gap(settings: Settings, runtime: FakeRuntime) -> None:
    with running(settings, runtime, apart=True) as line, listening(line) as listener:
        assert isinstance(line.front, TwoSides)
        first = line.post(GOOD).json()["id"]
        assert listener.next()["id"] == first
        line.front.part()
        wait_until(lambda: line.http.get("/readyz").status_code == 503)
        missed = asyncio.run_coroutine_threadsafe(record_one_more(line, first), loop_of(line)).result()
        line.front.join_again()
        wait_until(lambda: line.http.get("/readyz").status_code == 200)
        second = line.post(GOOD).json()["id"]
        assert listener.take(2) == [missed, second]


def test_records_that_cannot_be_read_for_a_while_leave_no_gap(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.events._RETRY_S", 0.01)
    feed, read = line.front.feed, line.front.feed._read
    failures = [0]

    async def failing(after: str, until: str | None = None) -> list[Event]:
        failures[0] += 1
        if failures[0] <= 3:
            raise RecordError("the records cannot be reached")
        return await read(after, until)

    with listening(line) as listener:
        monkeypatch.setattr(feed, "_read", failing)
        inspected = [line.post(GOOD).json()["id"] for _ in range(2)]
        assert listener.take(2) == inspected
    assert failures[0] > 3
