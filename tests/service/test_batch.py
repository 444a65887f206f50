"""The faces of one grain in one request, in both forms of the service."""

import asyncio
import csv
import http.client
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
import pytest
from serving import DEFECTIVE, GOOD, Line, encode, running, wait_until
from sqlalchemy import select

from service.records.schema import inspections
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

BATCH = "/v1/inspections:batch"
PART = {"station": "s1", "serial": "A1", "trigger": "5"}
KEYS = ["v", "trigger", "result", "code", "verdict", "faces", "ms"]
SMALL = encode(np.full((64, 64), 64, np.uint8))
"""Decoded on the spot, so that all faces reach the scheduler in the same turn."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def post(line: Line, images: Sequence[bytes], fields: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
    parts = [("image", (f"{n}.png", image, "image/png")) for n, image in enumerate(images)]
    return line.http.post(BATCH, files=parts, data=fields or {}, **options)


def recorded(line: Line) -> list[Any]:
    columns = inspections.c.verdict, inspections.c.code, inspections.c.serial, inspections.c.request_key
    with line.station.equipment.records.engine.connect() as connection:
        return list(connection.execute(select(*columns)))


def untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in {"ms", "timing_ms", "replayed"}}


def test_every_face_gets_its_verdict_and_the_grain_one(line: Line) -> None:
    response = post(line, [GOOD, DEFECTIVE, GOOD], {"trigger": "7", "serial": "A1"})
    reply = response.json()
    assert (response.status_code, list(reply)) == (200, KEYS)
    assert (reply["v"], reply["trigger"], reply["result"], reply["code"], reply["verdict"]) == (1, 7, 2, 0, "fail")
    assert [face["verdict"] for face in reply["faces"]] == ["pass", "fail", "pass"]
    assert [face["score"] for face in reply["faces"]] == [0.5, 1.5625, 0.5]
    alone = line.post(DEFECTIVE, {"trigger": 7, "serial": "A1"}).json()
    assert list(reply["faces"][1]) == list(alone)
    assert reply["faces"][1]["regions"] == alone["regions"]
    for face in reply["faces"]:
        record = line.http.get(f"/v1/inspections/{face['id']}").json()
        assert (record["verdict"], record["serial"], record["trigger"]) == (face["verdict"], "A1", 7)
        assert reply["ms"] >= face["ms"] > 0


def test_records_say_which_face_they_are_of(line: Line, runtime: FakeRuntime) -> None:
    runtime.fail_next(RuntimeError("out of order"))
    post(line, [SMALL, DEFECTIVE, GOOD])
    line.post(GOOD)
    items = line.http.get("/v1/inspections").json()["items"]
    assert sorted((one["face"] or 0, one["faces"] or 0, one["verdict"]) for one in items) == [
        (0, 0, "pass"),
        (1, 3, "not_evaluated"),
        (2, 3, "fail"),
        (3, 3, "pass"),
    ]
    [failed] = [one for one in items if one["verdict"] == "fail"]
    record = line.http.get(f"/v1/inspections/{failed['id']}").json()
    assert (record["face"], record["faces"]) == (2, 3)
    table = line.http.get("/v1/inspections", headers={"Accept": "text/csv"}).text
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(table, newline=""))}
    assert (rows[failed["id"]]["face"], rows[failed["id"]]["faces"]) == ("2", "3")


def test_grain_passes_only_with_all_its_faces(line: Line) -> None:
    assert post(line, [GOOD, GOOD]).json()["result"] == 1
    assert post(line, [GOOD]).json()["result"] == 1
    assert post(line, [GOOD, b"no image"]).json()["result"] == 0


def test_bad_face_takes_no_other_verdict_away(line: Line, runtime: FakeRuntime) -> None:
    tiny = encode(np.zeros((1, 1), np.uint8))
    response = post(line, [GOOD, b"no image", b"", tiny], {"trigger": "7"})
    reply = response.json()
    assert (response.status_code, reply["result"], reply["code"], reply["verdict"]) == (200, 0, 10, "not_evaluated")
    assert [face["code"] for face in reply["faces"]] == [0, 10, 10, 12]
    assert reply["faces"][0]["verdict"] == "pass"
    alone = line.post(b"no image", {"trigger": 7}).json()
    assert reply["faces"][1] == alone
    assert [row.verdict for row in recorded(line)] == ["pass"]
    runtime.fail_next(RuntimeError())
    reply = post(line, [GOOD, DEFECTIVE]).json()
    assert sorted(face["code"] for face in reply["faces"]) == [0, 50]
    assert reply["result"] in (2, 3)  # whichever face it was
    assert sorted(row.code for row in recorded(line)) == [0, 0, 50]


def test_joint_verdict_in_one_line(line: Line) -> None:
    accept = {"Accept": "text/plain"}
    response = post(line, [GOOD, DEFECTIVE, b"no image"], {"trigger": "42"}, headers=accept)
    assert response.headers["Content-Type"].startswith("text/plain")
    result, code, trigger, score_ppm, inspection_id = response.text.strip().split(";")
    assert (result, code, trigger, score_ppm) == ("2", "0", "42", "1562500")
    assert line.http.get(f"/v1/inspections/{inspection_id}").json()["verdict"] == "fail"
    assert post(line, [GOOD, b"no image"], {"trigger": "1"}, headers=accept).text == "0;10;1;;\n"
    assert post(line, [], {"trigger": "1"}, headers=accept).status_code == 400


def test_pictures_come_with_each_face(line: Line) -> None:
    reply = post(line, [GOOD, DEFECTIVE], {"heatmap": "png"}).json()
    assert all(face["heatmap"].startswith("iVBOR") for face in reply["faces"])


def test_bare_pixels_share_their_layout(line: Line) -> None:
    pixels = [np.full((64, 64), value, np.uint8).tobytes() for value in (64, 200)]
    reply = post(line, pixels, {"width": "64", "height": "64", "format": "mono8"}).json()
    assert [face["verdict"] for face in reply["faces"]] == ["pass", "fail"]


def test_faces_go_to_the_network_together(settings: Settings, apart: bool) -> None:
    runtime = FakeRuntime(max_batch=8)
    with running(settings, runtime, apart=apart) as line:
        before = len(runtime.batches)
        assert post(line, [SMALL] * 5).json()["result"] == 1
        assert runtime.batches[before:] == [5]


def test_whole_batch_is_replayed(line: Line, runtime: FakeRuntime) -> None:
    images = [GOOD, DEFECTIVE, GOOD]
    first = post(line, images, PART).json()
    computed = len(runtime.batches)
    second = post(line, images, PART).json()
    assert len(runtime.batches) == computed
    assert all(face["replayed"] for face in second["faces"])
    assert not any(face["replayed"] for face in first["faces"])
    assert [untimed(face) for face in second["faces"]] == [untimed(face) for face in first["faces"]]
    assert (second["result"], second["verdict"]) == (first["result"], first["verdict"])
    assert len({row.request_key for row in recorded(line)}) == 3
    metrics = line.http.get("/metrics").text
    assert 'inspect_requests_total{outcome="fail",station="s1"} 1.0' in metrics
    assert 'inspect_requests_total{outcome="replayed",station="s1"} 1.0' in metrics


def test_key_in_the_header_does_the_same(line: Line) -> None:
    key = {"Idempotency-Key": "k1"}
    first = post(line, [GOOD, DEFECTIVE], headers=key).json()
    second = post(line, [GOOD, DEFECTIVE], headers=key).json()
    assert [face["id"] for face in second["faces"]] == [face["id"] for face in first["faces"]]
    assert line.post(GOOD, headers=key).json()["replayed"] is False  # one image is another request than a batch


def test_only_what_had_no_verdict_is_inspected_again(line: Line) -> None:
    first = post(line, [GOOD, b"no image"], PART).json()
    second = post(line, [GOOD, DEFECTIVE], PART).json()
    assert (first["result"], second["result"]) == (0, 2)
    assert [face["replayed"] for face in second["faces"]] == [True, False]
    assert second["faces"][0]["id"] == first["faces"][0]["id"]


def test_same_key_with_another_face_is_refused_where_it_stands(line: Line) -> None:
    post(line, [GOOD, GOOD], PART)
    reply = post(line, [GOOD, DEFECTIVE], PART).json()
    assert [face["code"] for face in reply["faces"]] == [0, 21]
    assert (reply["result"], reply["code"]) == (0, 21)


@pytest.mark.parametrize("images", [[GOOD], [GOOD, GOOD, GOOD]], ids=["fewer", "more"])
def test_face_that_failed_cannot_be_left_out(line: Line, images: list[bytes]) -> None:
    first = post(line, [b"no image", DEFECTIVE], PART).json()
    assert first["result"] == 2
    response = post(line, images, PART)
    assert (response.status_code, response.json()["code"], response.json()["trigger"]) == (409, 21, 5)
    assert first["faces"][1]["id"] in response.json()["detail"]
    assert len(recorded(line)) == 1


def test_order_of_the_parts_is_the_order_of_the_faces(line: Line) -> None:
    images = [encode(np.full((256, 256), 8 * n, np.uint8)) for n in range(16)]
    reply = post(line, images).json()
    assert [face["score"] for face in reply["faces"]] == [8 * n / 128 for n in range(16)]


@pytest.mark.parametrize(
    ("images", "status", "code", "detail"),
    [
        ([SMALL] * 17, 422, 13, "17 parts 'image'; at most 16"),
        ([], 400, 10, "the body is empty"),
    ],
)
def test_wrong_numbers_of_faces(line: Line, images: list[bytes], status: int, code: int, detail: str) -> None:
    response = post(line, images)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert detail in response.json()["detail"]


def test_what_is_no_form_or_says_nonsense_is_refused_as_a_whole(line: Line) -> None:
    problem = line.http.post(BATCH, content=GOOD, params={"trigger": 3}).json()
    assert (problem["code"], problem["trigger"]) == (10, 3)
    assert "the body is no form" in problem["detail"]
    problem = post(line, [GOOD], {"reciep": "x", "trigger": "9"}).json()
    assert (problem["code"], problem["field"], problem["trigger"]) == (13, "reciep", 9)
    assert post(line, [GOOD], {"face": "1"}).json()["field"] == "face"
    no_face = line.http.post(BATCH, files={"picture": GOOD}).json()
    assert (no_face["code"], no_face["field"]) == (13, "image")
    assert recorded(line) == []


def test_deadline_is_that_of_every_face(line: Line, runtime: FakeRuntime) -> None:
    runtime.block()
    reply = post(line, [SMALL, SMALL], {"deadline_ms": "50", "trigger": "4"}).json()
    assert (reply["result"], reply["code"], reply["verdict"]) == (0, 41, "not_evaluated")
    assert [face["code"] for face in reply["faces"]] == [41, 41]
    assert "inspect_deadline_missed_total 2.0" in line.http.get("/metrics").text
    runtime.release()


def test_deadline_that_has_passed_on_arrival_is_that_of_every_face(line: Line, runtime: FakeRuntime) -> None:
    computed = len(runtime.batches)
    response = post(line, [GOOD, GOOD], {"deadline_ms": "0"})
    assert (response.status_code, [face["code"] for face in response.json()["faces"]]) == (200, [41, 41])
    assert len(runtime.batches) == computed


def test_records_that_do_not_answer_do_not_outlast_the_deadline(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(line.front.equipment.records, "find_any", never)
    response = post(line, [GOOD, GOOD], {**PART, "deadline_ms": "100"})
    assert (response.status_code, response.json()["code"], response.json()["result"]) == (504, 41, 0)


def test_body_that_does_not_come_misses_the_deadline(line: Line) -> None:
    connection = http.client.HTTPConnection(urlsplit(line.url).netloc, timeout=30)
    connection.putrequest("POST", f"{BATCH}?deadline_ms=50&trigger=4")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"--b")
    response = connection.getresponse()
    problem = orjson.loads(response.read())
    connection.close()
    assert (response.status, problem["code"], problem["trigger"]) == (504, 41, 4)
    assert "inspect_deadline_missed_total 1.0" in line.http.get("/metrics").text


def test_all_faces_are_admitted_or_none(
    settings: Settings, runtime: FakeRuntime, apart: bool, pool: ThreadPoolExecutor
) -> None:
    with running(settings.model_copy(update={"queue_size": 3}), runtime, apart=apart) as line:
        runtime.block()
        accepted = pool.submit(post, line, [GOOD, DEFECTIVE])
        wait_until(lambda: line.station.in_flight == 2)
        refused = post(line, [GOOD] * 3, {"trigger": "6"})
        assert (refused.status_code, refused.json()["code"], refused.json()["trigger"]) == (429, 40, 6)
        assert int(refused.headers["Retry-After"]) >= 1
        also_accepted = pool.submit(post, line, [GOOD] * 2)
        wait_until(lambda: line.station.in_flight == 4)
        runtime.release()
        assert accepted.result().json()["result"] == 2
        assert also_accepted.result().json()["result"] == 1
        wait_until(lambda: line.front.in_flight == 0)
        assert len(recorded(line)) == 4
        hopeless = post(line, [GOOD] * 5)
        assert (hopeless.status_code, hopeless.json()["field"]) == (422, "image")


def test_engine_that_has_no_room_for_a_face_refuses_the_batch(settings: Settings, runtime: FakeRuntime) -> None:
    """Several workers admit what one engine cannot take: nobody is told of half a grain."""
    with running(settings, runtime, apart=True) as line:
        line.station._max_in_flight = 1
        refused = post(line, [GOOD, GOOD], PART)
        assert (refused.status_code, refused.json()["code"]) == (429, 40)
        line.station._max_in_flight = 65
        retry = post(line, [GOOD, GOOD], PART).json()
        assert retry["result"] == 1
        assert sorted(face["replayed"] for face in retry["faces"]) == [False, True]


def test_client_that_leaves_takes_all_its_faces_along(line: Line, runtime: FakeRuntime) -> None:
    runtime.block()
    request = line.http.build_request("POST", BATCH, files=[("image", ("x.png", SMALL))] * 3)
    connection = http.client.HTTPConnection(urlsplit(line.url).netloc, timeout=30)
    connection.request("POST", BATCH, body=request.read(), headers={"Content-Type": request.headers["Content-Type"]})
    wait_until(lambda: line.station.equipment.scheduler.depth == 2)
    connection.close()
    wait_until(lambda: line.station.equipment.scheduler.depth == 0)
    wait_until(lambda: 'outcome="client-gone"' in line.http.get("/metrics").text)
    runtime.release()
    wait_until(lambda: line.station.in_flight == 0)
    wait_until(lambda: line.front.in_flight == 0)
    assert post(line, [GOOD]).json()["result"] == 1


def test_draining_finishes_a_batch_that_was_accepted(
    line: Line, runtime: FakeRuntime, pool: ThreadPoolExecutor
) -> None:
    runtime.block()
    accepted = pool.submit(post, line, [GOOD, DEFECTIVE])
    wait_until(lambda: line.station.in_flight == 2)
    line.front.begin_drain()
    refused = post(line, [GOOD])
    assert (refused.status_code, refused.json()["code"]) == (503, 40)
    runtime.release()
    assert accepted.result().json()["result"] == 2


def test_unexpected_error_of_one_face_shows_nothing_of_itself(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(line.front.equipment.inspector, "inspect", broken)
    response = post(line, [GOOD, GOOD], {"trigger": "1"})
    assert (response.status_code, response.json()["result"], response.json()["trigger"]) == (500, 3, 1)
    assert "secret" not in response.text
