import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import DEFECTIVE, GOOD, Line, running, wait_until

from service.claims import Claims
from service.records.database import RecordError
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

PART = {"station": "s1", "serial": "A1", "trigger": 5}
KEY = {"Idempotency-Key": "k1"}


def test_same_part_is_replayed_and_not_computed_again(line: Line, runtime: FakeRuntime) -> None:
    first = line.post(DEFECTIVE, PART).json()
    computed = len(runtime.batches)
    second = line.post(DEFECTIVE, PART).json()
    assert len(runtime.batches) == computed
    assert second.pop("replayed") is True
    assert first.pop("replayed") is False
    timed = {"ms", "timing_ms"}
    assert {key: value for key, value in second.items() if key not in timed} == {
        key: value for key, value in first.items() if key not in timed
    }


def test_same_key_is_replayed_whatever_else_the_retry_says(line: Line) -> None:
    first = line.post(GOOD, {"serial": "A1"}, headers=KEY).json()
    second = line.post(GOOD, {"serial": "A2"}, headers=KEY).json()
    assert (second["id"], second["serial"], second["replayed"]) == (first["id"], "A1", True)


@pytest.mark.parametrize("query", [PART, {}], ids=["part", "key"])
def test_same_key_with_another_image_is_refused(line: Line, query: dict[str, str]) -> None:
    headers = {} if query else KEY
    first = line.post(GOOD, query, headers=headers).json()
    response = line.post(DEFECTIVE, query, headers=headers)
    assert (response.status_code, response.json()["code"]) == (409, 21)
    assert first["id"] in response.json()["detail"]


def test_key_is_the_station_s_own(line: Line) -> None:
    first = line.post(GOOD, {"station": "s1"}, headers=KEY).json()
    second = line.post(DEFECTIVE, {"station": "s2"}, headers=KEY)
    assert second.status_code == 200
    assert second.json()["id"] != first["id"]


@pytest.mark.parametrize("missing", ["station", "serial", "trigger"])
def test_an_incomplete_part_is_inspected_each_time(line: Line, missing: str) -> None:
    query = {name: value for name, value in PART.items() if name != missing}
    assert line.post(GOOD, query).json()["id"] != line.post(GOOD, query).json()["id"]


def test_header_goes_before_the_part(line: Line) -> None:
    first = line.post(GOOD, PART, headers={"Idempotency-Key": "a"}).json()
    second = line.post(GOOD, PART, headers={"Idempotency-Key": "b"}).json()
    assert first["id"] != second["id"]


def test_replay_brings_its_picture_again(line: Line) -> None:
    line.post(DEFECTIVE, PART)
    replay = line.post(DEFECTIVE, {**PART, "heatmap": "overlay"}).json()
    assert replay["replayed"] is True
    assert replay["heatmap"].startswith("iVBOR")


def test_replay_without_the_map_says_so(settings: Settings, runtime: FakeRuntime) -> None:
    with running(settings.model_copy(update={"archive_max_bytes": 0}), runtime) as line:
        line.post(DEFECTIVE, PART)
        replay = line.post(DEFECTIVE, {**PART, "heatmap": "png"}).json()
        assert (replay["replayed"], replay["heatmap"]) == (True, None)


def test_simultaneous_duplicates_get_one_verdict(settings: Settings) -> None:
    runtime = FakeRuntime(lanes=4)
    with running(settings, runtime) as line, ThreadPoolExecutor(8) as pool:
        self_test = len(runtime.batches)
        runtime.block()
        answers = [pool.submit(line.post, DEFECTIVE, PART) for _ in range(8)]
        wait_until(lambda: line.station.in_flight == 8)
        runtime.release()
        replies = [answer.result().json() for answer in answers]
        assert len({reply["id"] for reply in replies}) == 1
        assert sorted(reply["replayed"] for reply in replies) == [False] + [True] * 7
        assert len(runtime.batches) == self_test + 1


def test_two_services_on_the_same_records_give_one_verdict(settings: Settings) -> None:
    first, second = FakeRuntime(), FakeRuntime()
    with running(settings, first) as here, running(settings, second) as there, ThreadPoolExecutor(2) as pool:
        for runtime in (first, second):
            runtime.block()
        answers = [pool.submit(line.post, DEFECTIVE, PART) for line in (here, there)]
        wait_until(lambda: len(first.batches) == len(second.batches) == 3)
        first.release()
        second.release()
        replies = [answer.result().json() for answer in answers]
        assert replies[0]["id"] == replies[1]["id"]
        assert sorted(reply["replayed"] for reply in replies) == [False, True]


def test_a_failure_does_not_use_the_key_up(line: Line, runtime: FakeRuntime) -> None:
    runtime.fail_next(RuntimeError("out of order"))
    assert line.post(GOOD, PART).status_code == 500
    retry = line.post(GOOD, PART).json()
    assert (retry["verdict"], retry["replayed"]) == ("pass", False)


def test_records_that_do_not_answer_whether_there_was_a_verdict(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    first = line.post(DEFECTIVE, PART).json()
    for records in (line.station.equipment.records, line.front.equipment.records):
        for name in ("find", "find_any"):
            monkeypatch.setattr(records, name, unreachable)
    for retry in (line.post(DEFECTIVE, PART), line.post(b"no image", PART), batch(line)):
        assert (retry.status_code, retry.json()["code"], retry.json()["result"]) == (503, 40, 0)
        assert retry.json()["detail"] == "the records cannot be reached: gone"
        assert retry.headers["Retry-After"] == "1"
    monkeypatch.undo()
    again = line.post(DEFECTIVE, PART).json()
    assert (again["id"], again["replayed"]) == (first["id"], True)


async def unreachable(*_: object) -> None:
    raise RecordError("the records cannot be reached: gone")


def batch(line: Line) -> httpx.Response:
    return line.http.post("/v1/inspections:batch", files=[("image", GOOD)] * 2, params=PART)


def test_restart_keeps_verdicts_and_images(settings: Settings, tmp_path: Path) -> None:
    runtime = FakeRuntime()
    with running(settings, runtime) as line:
        first = line.post(DEFECTIVE, PART).json()
    assert runtime.closed
    assert (tmp_path / "var" / "records.sqlite3").is_file()
    with running(settings, FakeRuntime()) as line:
        assert line.http.get(f"/v1/inspections/{first['id']}").json()["verdict"] == "fail"
        assert line.http.get(f"/v1/inspections/{first['id']}/image").content == DEFECTIVE
        replay = line.post(DEFECTIVE, PART).json()
        assert (replay["id"], replay["replayed"]) == (first["id"], True)


def test_claims_are_held_one_at_a_time_and_leave_nothing_behind() -> None:
    async def scenario() -> None:
        claims, inside, most = Claims(), 0, 0

        async def work() -> None:
            nonlocal inside, most
            async with claims.hold("k"):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        tasks = [asyncio.create_task(work()) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most == 1
        assert len(claims) == 0

    asyncio.run(scenario())
