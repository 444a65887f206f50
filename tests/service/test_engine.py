"""A worker and an engine in one event loop: what crosses between them, and what becomes of it when one ends."""

import asyncio
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
from serving import DEFECTIVE, GEOMETRY, GOOD, Line, TwoSides, encode, running, wait_until
from sqlalchemy import select

from service.engine.channel import socket_pair
from service.engine.host import DecodedByWorkers, Host
from service.engine.messages import decode_problem, encode_problem, encode_request
from service.engine.remote_counts import RemoteCounts
from service.engine.session import EngineLostError, Session
from service.fields import Fields
from service.picture import measure
from service.preparation import prepare
from service.problems import KINDS, Problem
from service.records.schema import inspections
from service.runtimes.fake import FakeRuntime
from service.settings import Settings
from service.station import Station
from service.submission import Submission

PART = {"station": "s1", "serial": "A1", "trigger": 5}


@pytest.fixture
def apart() -> bool:
    return True


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def sides(line: Line) -> TwoSides:
    assert isinstance(line.front, TwoSides)
    return line.front


def recorded(line: Line) -> list[Any]:
    with line.station.equipment.records.engine.connect() as connection:
        return list(connection.execute(select(inspections.c.verdict, inspections.c.code, inspections.c.serial)))


def test_end_of_the_engine_is_answered_recorded_and_survived(
    line: Line, runtime: FakeRuntime, pool: ThreadPoolExecutor
) -> None:
    first = line.post(GOOD).json()["id"]
    runtime.block()
    waiting = [pool.submit(line.post, DEFECTIVE, {"serial": f"A{n}", "trigger": n}) for n in range(3)]
    wait_until(lambda: line.station.equipment.scheduler.depth == 2)
    sides(line).part()
    problems = [request.result().json() for request in waiting]
    assert [(problem["code"], problem["result"], problem["trigger"]) for problem in problems] == [
        (50, 3, n) for n in range(3)
    ]
    for response in (line.http.get("/readyz"), line.post(GOOD), line.http.get(f"/v1/inspections/{first}")):
        assert (response.status_code, response.json()["code"]) == (503, 40)
        assert "restarted" in response.json()["detail"]
        assert int(response.headers["Retry-After"]) >= 1
    assert line.http.get("/livez").status_code == 200
    assert 'inspect_worker_restarts_total{process="engine"} 0.0' in line.http.get("/metrics").text
    # What waited was dropped; what ran has no outcome that anybody asked for.
    runtime.release()
    wait_until(lambda: line.station.in_flight == 0)
    sides(line).join_again()
    wait_until(lambda: line.http.get("/readyz").status_code == 200)
    wait_until(lambda: len(recorded(line)) == 4)
    errors = [row for row in recorded(line) if row.code == 50]
    assert sorted(row.serial for row in errors) == ["A0", "A1", "A2"]
    assert {row.verdict for row in errors} == {"not_evaluated"}
    assert line.post(DEFECTIVE).json()["verdict"] == "fail"
    text = line.http.get("/metrics").text
    assert 'inspect_requests_total{outcome="failed",station=""} 3.0' in text
    assert 'inspect_requests_total{outcome="not-ready",station=""} 1.0' in text


def test_verdict_that_was_recorded_but_not_answered_is_what_a_retry_gets(
    line: Line, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = line.station.equipment.records
    write = records.write

    async def cut(inspection: Any, _: float) -> None:
        await write(inspection)
        if inspection.code == 0:
            sides(line).part()

    monkeypatch.setattr(records, "write", cut)
    assert line.post(DEFECTIVE, PART).json()["code"] == 50
    monkeypatch.setattr(records, "write", write)
    sides(line).join_again()
    wait_until(lambda: line.http.get("/readyz").status_code == 200)
    computed = len(runtime.batches)
    retry = line.post(DEFECTIVE, PART).json()
    assert (retry["verdict"], retry["replayed"], len(runtime.batches)) == ("fail", True, computed)


def test_retry_is_replayed_whatever_has_become_of_its_recipe_name(line: Line) -> None:
    first = line.post(GOOD, PART).json()
    retry = line.post(GOOD, {**PART, "recipe": "nut"}).json()
    assert (retry["id"], retry["replayed"]) == (first["id"], True)
    refused = line.post(b"no image", PART)
    assert (refused.status_code, refused.json()["code"]) == (409, 21)


def test_damaged_image_of_a_new_part_is_no_retry(line: Line) -> None:
    refused = line.post(b"no image", PART)
    assert (refused.status_code, refused.json()["code"]) == (400, 10)
    assert line.post(GOOD, PART).json()["replayed"] is False


def test_fields_of_every_script_and_length_cross(line: Line) -> None:
    names = {"station": "\u7ad9" * 128, "lot": '"\\' * 64, "serial": "\U0001f9ca" * 128, "trigger": -(2**63)}
    reply = line.post(DEFECTIVE, {**names, "heatmap": "overlay"}, headers={"Idempotency-Key": "k" * 255}).json()
    assert {name: reply[name] for name in names} == names
    assert reply["heatmap"].startswith("iVBOR")
    assert line.http.get(f"/v1/inspections/{reply['id']}").json()["serial"] == names["serial"]


def test_large_image_is_kept_byte_for_byte(line: Line) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (1500, 1500), np.uint8)
    image = encode(noise, ".bmp")
    assert len(image) > 2_000_000
    inspection_id = line.post(image).json()["id"]
    assert line.http.get(f"/v1/inspections/{inspection_id}/image").content == image


def test_nothing_is_handed_over_that_nobody_keeps(settings: Settings, runtime: FakeRuntime) -> None:
    with running(settings.model_copy(update={"archive_max_bytes": 0}), runtime, apart=True) as line:
        reply = line.post(GOOD, {"heatmap": "png"}).json()
        assert (reply["verdict"], reply["heatmap"][:5]) == ("pass", "iVBOR")
        assert line.http.get(f"/v1/inspections/{reply['id']}").json()["kept"] is False


def test_full_slots_are_refused_at_once(settings: Settings, runtime: FakeRuntime, pool: ThreadPoolExecutor) -> None:
    with running(settings.model_copy(update={"queue_size": 2}), runtime, apart=True) as line:
        runtime.block()
        accepted = [pool.submit(line.post, GOOD) for _ in range(3)]
        wait_until(lambda: line.station.in_flight == 3)
        refused = line.post(GOOD, {"trigger": 6})
        assert (refused.status_code, refused.json()["code"], refused.json()["trigger"]) == (429, 40, 6)
        assert int(refused.headers["Retry-After"]) >= 1
        runtime.release()
        assert [answer.result().status_code for answer in accepted] == [200] * 3


def test_slots_come_back_from_every_kind_of_end(line: Line, runtime: FakeRuntime) -> None:
    for _ in range(40):
        assert line.post(GOOD, {"deadline_ms": 0}).status_code == 504
        runtime.fail_next(RuntimeError())
        assert line.post(GOOD).status_code == 500
        assert line.post(b"no image", {"station": "s", "serial": "x", "trigger": 1}).status_code == 400
        assert line.post(GOOD).status_code == 200


def test_engine_that_no_longer_answers_misses_the_deadline_and_fills_up(
    settings: Settings, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.host._Link._on_batch", lambda *_: None)
    with running(settings.model_copy(update={"queue_size": 1}), runtime, apart=True) as line:
        for _ in range(2):
            late = line.post(GOOD, {"deadline_ms": 20})
            assert (late.status_code, late.json()["code"]) == (504, 41)
        refused = line.post(GOOD)
        assert (refused.status_code, refused.json()["code"]) == (429, 40)
        assert "all 2 slots are taken" in refused.json()["detail"]


def test_worker_that_dies_in_the_turn_in_which_it_handed_over(settings: Settings, runtime: FakeRuntime) -> None:
    """Its last words and its end are read together: nothing is computed, nothing stays open, nothing goes wrong."""
    wrong: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        station = Station(settings, runtime, DecodedByWorkers())
        host = Host(station)
        await station.start()
        host.open()
        submission = Submission(GOOD, Fields(), time.monotonic(), time.monotonic() + 60)
        prepared = prepare(measure(GOOD, None, 100_000), station.equipment.edition.default.recipe, GEOMETRY)
        header = encode_request(submission, 1, prepared.sha256, 1.0, prepared)
        computed = len(runtime.batches)
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        for _ in range(3):
            ours, theirs = socket_pair()
            sessions: list[Session] = []
            session = Session(ours, lambda session, _, sessions=sessions: sessions.append(session), lambda _: None)
            host.connect(theirs)
            while not sessions:
                await asyncio.sleep(0.001)
            asked = [
                asyncio.create_task(session.inspect(header, prepared.frame.pixels, GOOD, wants_map=False))
                for _ in range(2)
            ]
            await asyncio.sleep(0)
            session.close()
            assert all(isinstance(one, EngineLostError) for one in await asyncio.gather(*asked, return_exceptions=True))
        del asked, session, sessions
        async with asyncio.timeout(30):
            while sum(1 for _ in Path("/proc/self/fd").iterdir()) > before:
                gc.collect()  # what the errors' tracebacks hold
                await asyncio.sleep(0.001)
        assert (len(runtime.batches), station.in_flight) == (computed, 0)
        await station.stop()
        host.close()

    asyncio.run(scenario())
    assert wrong == []


def test_counts_of_many_stations_fit_into_one_note() -> None:
    async def scenario() -> None:
        counts = RemoteCounts()
        for number in range(1000):
            counts.request(f"{number}" + "\U0001f9ca" * 120, "pass")
        sent: list[int] = []

        class Engine:
            def count(self, counts: list[tuple[str | None, str, int]], missed: int) -> None:
                assert missed == 0
                assert len(orjson.dumps(counts)) < 60_000
                sent.extend(times for _, _, times in counts)

        counts.attach(cast("Session", Engine()))
        for number in range(1000):
            counts.request(f"s{number}", "pass")
        counts.send()
        assert sum(sent) == 2000

    asyncio.run(scenario())


def test_runtime_that_hangs_is_not_ready(settings: Settings, runtime: FakeRuntime, pool: ThreadPoolExecutor) -> None:
    with running(settings.model_copy(update={"hang_seconds": 0.3}), runtime) as line:
        runtime.block()
        hung = pool.submit(line.post, GOOD)
        wait_until(lambda: line.http.get("/readyz").status_code == 503)
        assert "the runtime has not answered for" in line.http.get("/readyz").json()["detail"]
        refused = line.post(GOOD)
        assert (refused.status_code, refused.json()["code"]) == (503, 40)
        runtime.release()
        assert hung.result().status_code == 200
        assert line.http.get("/readyz").status_code == 200


def test_every_kind_of_problem_crosses() -> None:
    for kind in KINDS.values():
        sent = Problem(kind, "what", retry_after_s=3, extensions={"id": "x"})
        got = decode_problem(encode_problem(sent))
        assert (got.kind, got.detail, got.retry_after_s, got.extensions) == (kind, "what", 3, {"id": "x"})
