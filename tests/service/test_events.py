"""Inspections as a stream of events, in both forms of the service."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from serving import DEFECTIVE, GOOD, Line, TwoSides, running, wait_until
from ulid import ULID

from service.events import Bell, Event, Subscription
from service.records import inspection as ids
from service.records.database import RecordError
from service.records.inspection import continue_after, new_id
from service.runtimes.fake import FakeRuntime
from service.settings import Settings


class Listener:
    """A client of the events, read a line at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()
        assert next(self._lines) == "retry: 1000"
        assert next(self._lines) == ""

    def next(self) -> dict[str, Any]:
        """The next event's id, name and document; comments on the way are passed over."""
        event: dict[str, Any] = {}
        for line in self._lines:
            if line.startswith(":"):
                assert next(self._lines) == ""
            elif line:
                name, _, value = line.partition(": ")
                event[name] = orjson.loads(value) if name == "data" else value
            else:
                return event
        raise EOFError

    def take(self, count: int) -> list[str]:
        return [self.next()["id"] for _ in range(count)]

    def comment(self) -> str:
        for line in self._lines:
            if line.startswith(":"):
                assert next(self._lines) == ""
                return line
        raise EOFError


@contextmanager
def listening(line: Line, last: str | None = None) -> Iterator[Listener]:
    headers = {} if last is None else {"Last-Event-ID": last}
    with line.http.stream("GET", "/v1/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        yield Listener(response)


def clients(line: Line) -> int:
    return len(line.front.feed._clients)


def loop_of(line: Line) -> asyncio.AbstractEventLoop:
    """The event loop of a service that somebody listens to."""
    return line.front.feed._tasks[0].get_loop()


def in_its_loop(line: Line, call: Callable[[], None]) -> None:
    loop_of(line).call_soon_threadsafe(call)


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


def slow_client(line: Line) -> socket.socket:
    """A connection that asks for the events and reads none; its window is as small as it gets."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    url = urlsplit(line.url)
    connection.connect((url.hostname, url.port))
    connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    wait_until(lambda: clients(line) == 1)
    return connection


def test_slow_client_is_cut_off_and_resumes(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line.front.feed, "_max_waiting", 10)
    go_on = threading.Event()
    write = EventWrites(go_on)
    monkeypatch.setattr("service.routes.events._write", write)
    with listening(line) as listener:
        first = line.post(GOOD).json()["id"]
        assert listener.next()["id"] == first
        write.block = True
        sent = [line.post(GOOD).json()["id"] for _ in range(30)]
        wait_until(lambda: any(client.overrun for client in line.front.feed._clients))
        go_on.set()
        got = []
        comment = ""
        for text in listener._lines:
            if text.startswith("id: "):
                got.append(text.removeprefix("id: "))
            elif text.startswith(":"):
                comment = text
        assert comment.startswith(": too slow")
        assert got == sent[: len(got)]
        assert len(got) < 30
    with listening(line, got[-1] if got else first) as listener:
        assert listener.take(30 - len(got)) == sent[len(got) :]


class EventWrites:
    """Stands for the sending of events; holds it up."""

    def __init__(self, go_on: threading.Event) -> None:
        self.block = False
        self._go_on = go_on

    async def __call__(self, send: Any, data: bytes) -> None:
        while self.block and not self._go_on.is_set():
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": data, "more_body": True})


def test_client_that_takes_nothing_in_is_given_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.routes.events._STALLED_S", 0.2)
    monkeypatch.setattr("service.events._event", lambda inspection: Event(inspection.id, b":" * 4_000_000 + b"\n\n"))
    with slow_client(line):
        line.post(GOOD)
        line.post(GOOD)
        wait_until(lambda: clients(line) == 0)
        assert line.post(GOOD).status_code == 200


def test_long_history_outlasts_the_room_for_news(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.events._PAGE", 2)
    monkeypatch.setattr(line.front.feed, "_max_waiting", 3)
    old = [line.post(GOOD).json()["id"] for _ in range(6)]
    feed, read = line.front.feed, line.front.feed._read
    news: list[str] = []

    async def slow(after: str, until: str | None = None) -> list[Event]:
        if until is not None and len(news) < 8:  # while the history is read, more is recorded than may wait
            replies = await asyncio.gather(*(asyncio.to_thread(line.post, GOOD) for _ in range(4)))
            news.extend(reply.json()["id"] for reply in replies)
        return await read(after, until)

    monkeypatch.setattr(feed, "_read", slow)
    with listening(line, old[0]) as listener:
        assert listener.take(5) == old[1:]
        assert listener.take(8) == sorted(news)


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


def test_bell_tells_those_who_listen_and_says_whether_any_do() -> None:
    bell, rung, listening = Bell(), [], []
    bell.on_listening = listening.append
    bell.ring()
    first, second = lambda: rung.append(1), lambda: rung.append(2)
    bell.add(first)
    bell.add(second)
    bell.ring()
    assert sorted(rung) == [1, 2]
    bell.remove(first)
    assert bell.heard
    bell.remove(second)
    bell.ring()
    assert (bell.heard, sorted(rung), listening) == (False, [1, 2], [True, False])


def test_subscription_drops_what_is_too_much_and_says_so() -> None:
    subscription = Subscription(most=3)
    events = [Event(str(n), b"") for n in range(5)]
    subscription.hand_out(events[:2])
    assert subscription.take() == events[:2]
    subscription.hand_out(events[:2])
    subscription.hand_out(events[2:4])
    assert (subscription.overrun, subscription.take()) == (True, [])
    subscription.hand_out(events[4:])
    assert subscription.take() == []
    subscription.start_over()
    subscription.hand_out(events[4:])
    assert (subscription.overrun, subscription.take()) == (False, events[4:])


def test_ids_only_grow_even_if_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(ids, "_last_id", 0)
    monkeypatch.setattr(ids.time, "time_ns", lambda: now)
    made = [new_id() for _ in range(1000)]
    now -= 3_600_000_000_000
    made += [new_id() for _ in range(1000)]
    assert made == sorted(set(made))
    now += 2 * 3_600_000_000_000
    assert new_id() > made[-1]
    earlier = str(ULID.from_timestamp(now / 1e9 + 600))
    continue_after(earlier)
    assert new_id() > earlier
    # A clock that was years ahead does not rule the ids for years.
    wrong = str(ULID.from_timestamp(now / 1e9 + 1e8))
    continue_after(wrong)
    assert new_id() < wrong


def test_ids_go_on_after_those_of_an_earlier_process(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(settings, FakeRuntime()) as line:
        old = line.post(GOOD).json()["id"]
    monkeypatch.setattr(ids, "_last_id", 0)
    set_back = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(ids.time, "time_ns", lambda: set_back)
    with running(settings, FakeRuntime()) as line, listening(line, old) as listener:
        new = line.post(GOOD).json()["id"]
        assert new > old
        assert listener.next()["id"] == new
