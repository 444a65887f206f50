import asyncio
import http.client
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from serving import DEFECTIVE, GOOD, Line, running, wait_until
from sqlalchemy import select

from atsnet.imaging import Float32Array, UInt8Array
from service.records.inspection import Inspection
from service.records.schema import inspections
from service.runtimes.fake import FakeRuntime
from service.settings import Settings


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def recorded(line: Line) -> list[Any]:
    with line.station.equipment.records.engine.connect() as connection:
        return list(connection.execute(select(inspections.c.verdict, inspections.c.code, inspections.c.detail)))


def test_deadline_that_has_passed_on_arrival(line: Line, runtime: FakeRuntime) -> None:
    computed = len(runtime.batches)
    response = line.post(GOOD, {"deadline_ms": 0, "trigger": 4})
    assert (response.status_code, response.json()["code"], response.json()["result"]) == (504, 41, 0)
    assert response.json()["trigger"] == 4
    assert len(runtime.batches) == computed
    assert recorded(line) == []


def test_deadline_that_passes_while_the_network_runs(line: Line, runtime: FakeRuntime) -> None:
    runtime.block()
    response = line.post(GOOD, {"deadline_ms": 50, "station": "s1"})
    assert (response.status_code, response.json()["code"]) == (504, 41)
    metrics = line.http.get("/metrics").text
    assert "inspect_deadline_missed_total 1.0" in metrics
    assert 'inspect_requests_total{outcome="deadline-passed",station="s1"} 1.0' in metrics
    runtime.release()
    assert line.post(GOOD).status_code == 200


def test_deadline_that_passes_while_the_verdict_is_recorded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    records = line.station.equipment.records
    write = records.write

    async def slow(inspection: Inspection, _: float) -> None:
        await write(inspection)
        await asyncio.sleep(1.1)

    monkeypatch.setattr(records, "write", slow)
    key = {"Idempotency-Key": "k"}
    late = line.post(GOOD, {"deadline_ms": 1000, "trigger": 4}, headers=key)
    problem = late.json()
    assert (late.status_code, problem["code"], problem["result"], problem["trigger"]) == (504, 41, 0, 4)
    assert "inspect_deadline_missed_total 1.0" in line.http.get("/metrics").text
    retry = line.post(GOOD, headers=key).json()
    assert (retry["replayed"], retry["verdict"], retry["id"]) == (True, "pass", problem["id"])


def test_what_expired_in_the_queue_is_not_computed(line: Line, runtime: FakeRuntime, pool: ThreadPoolExecutor) -> None:
    runtime.block()
    running_one = pool.submit(line.post, GOOD)
    wait_until(lambda: len(runtime.batches) == 3)
    assert line.post(GOOD, {"deadline_ms": 50}).status_code == 504
    runtime.release()
    assert running_one.result().status_code == 200
    assert line.post(GOOD).status_code == 200
    assert len(runtime.batches) == 4


def test_default_deadline_ends_a_request_whose_runtime_hangs(settings: Settings, runtime: FakeRuntime) -> None:
    with running(settings.model_copy(update={"deadline_ms": 50}), runtime) as line:
        runtime.block()
        assert line.post(GOOD).json()["code"] == 41


def test_body_that_does_not_come_misses_the_deadline(line: Line) -> None:
    connection = http.client.HTTPConnection(urlsplit(line.url).netloc, timeout=30)
    connection.putrequest("POST", "/v1/inspections?deadline_ms=50")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"a few bytes")
    assert connection.getresponse().status == 504
    connection.close()
    assert "inspect_deadline_missed_total 1.0" in line.http.get("/metrics").text


def test_too_many_are_refused_at_once_and_the_accepted_are_answered(
    settings: Settings, runtime: FakeRuntime, pool: ThreadPoolExecutor
) -> None:
    with running(settings.model_copy(update={"queue_size": 2}), runtime) as line:
        runtime.block()
        accepted = [pool.submit(line.post, GOOD) for _ in range(3)]
        wait_until(lambda: line.station.in_flight == 3)
        refused = line.post(GOOD, {"trigger": 6})
        assert (refused.status_code, refused.json()["code"], refused.json()["trigger"]) == (429, 40, 6)
        assert int(refused.headers["Retry-After"]) >= 1
        wait_until(lambda: "inspect_queue_depth 2.0" in line.http.get("/metrics").text)
        runtime.release()
        assert [answer.result().status_code for answer in accepted] == [200] * 3
        assert line.post(GOOD).status_code == 200


def test_client_that_leaves_takes_its_queued_work_along(
    line: Line, runtime: FakeRuntime, pool: ThreadPoolExecutor
) -> None:
    runtime.block()
    first = pool.submit(line.post, GOOD)
    wait_until(lambda: len(runtime.batches) == 3)
    connection = http.client.HTTPConnection(urlsplit(line.url).netloc, timeout=30)
    connection.request("POST", "/v1/inspections", body=DEFECTIVE)
    wait_until(lambda: line.station.equipment.scheduler.depth == 1)
    connection.close()
    wait_until(lambda: line.station.equipment.scheduler.depth == 0)
    runtime.release()
    assert first.result().status_code == 200
    wait_until(lambda: 'outcome="client-gone"' in line.http.get("/metrics").text)
    assert len(runtime.batches) == 3
    assert [row.verdict for row in recorded(line)] == ["pass"]


def test_pictures_do_not_hold_up_inspections(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/v1/inspections/{line.post(GOOD).json()['id']}/heatmap.png"
    rendering, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> bytes:
        rendering.release()
        assert go_on.wait(60)
        return b""

    monkeypatch.setattr("service.routes.records.heatmap_png", slow)
    with ThreadPoolExecutor(40) as viewers:
        pictures = [viewers.submit(line.http.get, path) for _ in range(40)]
        assert rendering.acquire(timeout=30)
        inspected = line.post(GOOD, {"deadline_ms": 5000}, headers={"Idempotency-Key": "k"})
        go_on.set()
        assert all(picture.result().status_code == 200 for picture in pictures)
    assert inspected.status_code == 200


def test_engine_failure_is_an_error_that_is_recorded(line: Line, runtime: FakeRuntime) -> None:
    runtime.fail_next(RuntimeError("secret path /opt/x"))
    response = line.post(GOOD, {"trigger": 2, "serial": "A1"})
    problem = response.json()
    assert (response.status_code, problem["code"], problem["result"], problem["trigger"]) == (500, 50, 3, 2)
    assert "secret" not in response.text
    record = line.http.get(f"/v1/inspections/{problem['id']}").json()
    assert (record["result"], record["code"], record["verdict"], record["serial"]) == (3, 50, "not_evaluated", "A1")
    assert (record["score"], record["detail"]) == (None, problem["detail"])
    assert line.post(GOOD).json()["verdict"] == "pass"


def test_engine_failure_in_one_line(line: Line, runtime: FakeRuntime) -> None:
    runtime.fail_next(RuntimeError())
    result, code, trigger, score, inspection_id = (
        line.post(GOOD, {"trigger": 2}, headers={"Accept": "text/plain"}).text.strip().split(";")
    )
    assert (result, code, trigger, score) == ("3", "50", "2", "")
    assert len(inspection_id) == 26


class BrokenRuntime(FakeRuntime):
    """Answers what must never become a verdict, once the self-test is over."""

    def __init__(self, score: float, map_value: float) -> None:
        super().__init__()
        self.answer = (score, map_value)

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        scores, maps = super().run(frames)
        if len(self.batches) > 2:
            scores, maps = np.full_like(scores, self.answer[0]), np.full_like(maps, self.answer[1])
        return scores, maps


@pytest.mark.parametrize(
    ("score", "map_value"), [(math.nan, 0.5), (math.inf, 0.5), (-math.inf, 0.5), (0.5, math.nan), (0.5, -math.inf)]
)
def test_what_is_not_finite_never_passes(settings: Settings, score: float, map_value: float) -> None:
    with running(settings, BrokenRuntime(score, map_value)) as line:
        response = line.post(GOOD)
        assert (response.status_code, response.json()["code"], response.json()["result"]) == (500, 50, 3)
        assert [(row.verdict, row.code) for row in recorded(line)] == [("not_evaluated", 50)]


def test_runtime_of_the_wrong_shape_is_an_engine_failure(settings: Settings) -> None:
    class Short(FakeRuntime):
        def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
            scores, maps = super().run(frames)
            return (scores, maps) if len(self.batches) <= 2 else (scores[:0], maps)

    with running(settings, Short()) as line:
        assert line.post(GOOD).json()["code"] == 50


def test_unexpected_error_shows_nothing_of_itself(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(line.station.equipment.inspector, "inspect", broken)
    response = line.post(GOOD, {"trigger": 1})
    assert (response.status_code, response.json()["code"], response.json()["result"]) == (500, 50, 3)
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text


def test_record_that_cannot_be_written_means_no_verdict(line: Line) -> None:
    with line.station.equipment.records.engine.begin() as connection:
        inspections.drop(connection)
    response = line.post(GOOD)
    assert (response.status_code, response.json()["code"], response.json()["result"]) == (500, 50, 3)
    assert "id" not in response.json()


def test_unready_until_started(settings: Settings, runtime: FakeRuntime) -> None:
    runtime.block()  # the golden samples wait
    with running(settings, runtime, until_ready=False) as line:
        assert line.http.get("/livez").status_code == 200
        for response in (line.http.get("/readyz"), line.post(GOOD), line.http.get("/v1/inspections/x")):
            assert (response.status_code, response.json()["code"]) == (503, 40)
            assert int(response.headers["Retry-After"]) >= 1
        runtime.release()
        wait_until(lambda: line.http.get("/readyz").status_code == 200)
        assert line.post(GOOD).status_code == 200


def test_draining_refuses_the_new_and_finishes_the_accepted(
    line: Line, runtime: FakeRuntime, pool: ThreadPoolExecutor
) -> None:
    runtime.block()
    accepted = pool.submit(line.post, DEFECTIVE)
    wait_until(lambda: len(runtime.batches) == 3)
    line.front.begin_drain()
    for response in (line.http.get("/readyz"), line.post(GOOD)):
        assert (response.status_code, response.json()["code"]) == (503, 40)
        assert "Retry-After" in response.headers
    assert line.http.get("/livez").status_code == 200
    runtime.release()
    assert accepted.result().json()["verdict"] == "fail"
