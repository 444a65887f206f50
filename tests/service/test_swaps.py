"""Activations under load: not one request fails, and each is decoded, scored, judged and recorded by one setup."""

import itertools
import json
import os
import signal
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from launching import Service, several_processes
from serving import DEFECTIVE, GOOD, FakeRuntimes, Line, running, wait_until, write_bundle
from sqlalchemy import select

from atsnet.imaging import InputGeometry
from service.records.schema import inspections
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

REQUESTS = 2000
CLIENTS = 8
SCORE_THRESHOLDS = {"1": 4.0, "2": 2.0}
MAPS = {"1": 32, "2": 64}
LARGE = InputGeometry(height=512, width=512, color="rgb")


@pytest.fixture
def two(weights: Path) -> Path:
    """A second version with larger frames of more channels, larger maps and raw scores on another scale."""
    write_bundle(weights, version="2", geometry=LARGE, map_size=MAPS["2"], score_threshold=SCORE_THRESHOLDS["2"])
    return weights


class Clients:
    """Post good and bad parts, one after the other, until all are through."""

    def __init__(self, url: str, requests: int) -> None:
        self.answers: list[tuple[bool, httpx.Response]] = []
        self._url = url
        self._numbers = iter(range(requests))
        self._lock = threading.Lock()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            while True:
                with self._lock:
                    number = next(self._numbers, None)
                if number is None:
                    return
                bad = number % 2 == 1
                query: dict[str, Any] = {"station": "s", "serial": f"A{number}", "trigger": number}
                if number % 10 == 0:
                    query["heatmap"] = "png"
                response = http.post("/v1/inspections", params=query, content=DEFECTIVE if bad else GOOD)
                self.answers.append((bad, response))


@contextmanager
def under_load(url: str, requests: int = REQUESTS) -> Iterator[tuple[Clients, threading.Event]]:
    """The block ends when all clients are through; the event says when they are."""
    clients, through = Clients(url, requests), threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(clients.run) for _ in range(CLIENTS)]

        def watch() -> None:
            for one in running:
                one.exception()
            through.set()

        watching = threading.Thread(target=watch)
        watching.start()
        yield clients, through
        watching.join()
        for one in running:
            one.result()


def check(answers: list[tuple[bool, httpx.Response]], recipes: dict[int, dict[str, Any]]) -> Counter[str]:
    """Every answer is a verdict that fits exactly one version of the recipe, and the bundle that this one names."""
    seen: Counter[str] = Counter()
    for bad, response in answers:
        assert response.status_code == 200, response.text
        reply = response.json()
        recipe = recipes[reply["recipe_version"]]
        assert f"{reply['model']}/{reply['model_version']}" == recipe["bundle"]
        assert reply["threshold"] == recipe["threshold"]
        assert reply["score"] == (1.5625 if bad else 0.5)
        assert reply["verdict"] == ("fail" if reply["score"] > recipe["threshold"] else "pass")
        seen[reply["model_version"]] += 1
    return seen


def versions(http: httpx.Client) -> dict[int, dict[str, Any]]:
    return {one["version"]: one for one in http.get("/v1/recipes/tec-grain").json()["versions"]}


@pytest.mark.usefixtures("two")
def test_no_request_fails_or_sees_a_mixture(settings: Settings, apart: bool) -> None:
    runtimes = FakeRuntimes(lambda: FakeRuntime(lanes=2, max_batch=4))
    with running(settings.model_copy(update={"sessions": 2}), runtimes, apart=apart) as line:
        # The same product by two bundles of other frames and other thresholds.
        draft = {"name": "tec-grain", "bundle": "tec-grain-demo/2", "threshold": 1.6}
        assert line.http.post("/v1/recipes", json=draft).status_code == 201
        swaps = 0
        with under_load(line.url) as (clients, through):
            for version in itertools.cycle((2, 1)):
                activated = line.http.post("/v1/recipes/tec-grain/activate", json={"version": version})
                assert activated.status_code == 200, activated.text
                swaps += 1
                if through.is_set():
                    break
        assert len(clients.answers) == REQUESTS
        seen = check(clients.answers, versions(line.http))
        assert swaps > 10
        assert min(seen["1"], seen["2"]) > REQUESTS // 20, (seen, swaps)
        check_records(line)
        wait_until(lambda: sum(not runtime.closed for runtime in runtimes.made) == 1)


def check_records(line: Line) -> None:
    table = inspections.c
    columns = (table.model_version, table.recipe_version, table.raw_score, table.score, table.layout, table.threshold)
    with line.station.equipment.records.engine.connect() as connection:
        rows = list(connection.execute(select(*columns)))
    assert len(rows) == REQUESTS
    for row in rows:
        assert row.recipe_version == int(row.model_version)
        assert row.raw_score == row.score * SCORE_THRESHOLDS[row.model_version]
        assert row.layout["geometry"]["height"] == {"1": 256, "2": 512}[row.model_version]
        assert row.threshold == {"1": 1.0, "2": 1.6}[row.model_version]


@pytest.mark.usefixtures("two")
def test_a_request_that_was_decoded_for_the_old_bundle_is_finished_by_it(settings: Settings, apart: bool) -> None:
    runtimes = FakeRuntimes()
    with running(settings, runtimes, apart=apart) as line, ThreadPoolExecutor(8) as pool:
        old = runtimes.made[0]
        old.block()
        waiting = [pool.submit(line.post, DEFECTIVE, {"heatmap": "png"}) for _ in range(6)]
        wait_until(lambda: line.station.equipment.scheduler.depth == 5)
        assert line.http.post("/v1/models/tec-grain-demo/2/activate").status_code == 200
        assert line.post(DEFECTIVE).json()["model_version"] == "2"
        assert not old.closed
        old.release()
        replies = [request.result().json() for request in waiting]
        assert {(reply["model_version"], reply["verdict"], reply["recipe_version"]) for reply in replies} == {
            ("1", "fail", 1)
        }
        assert all(reply["heatmap"].startswith("iVBOR") for reply in replies)
        wait_until(lambda: old.closed)


@pytest.mark.usefixtures("two")
def test_faces_of_one_grain_are_inspected_by_one_bundle(settings: Settings, apart: bool) -> None:
    """Also where one of them waited for an earlier attempt until another bundle had been activated."""
    runtimes = FakeRuntimes()
    with running(settings, runtimes, apart=apart) as line, ThreadPoolExecutor(2) as pool:
        old = runtimes.made[0]
        self_test = len(old.batches)
        old.block()
        pool.submit(post_faces, line, [GOOD, b"no image"])
        wait_until(lambda: len(old.batches) == self_test + 1)
        old.fail_next(RuntimeError("out of order"))
        second = pool.submit(post_faces, line, [GOOD, DEFECTIVE])
        wait_until(lambda: line.station.equipment.scheduler.depth == 1)
        assert line.http.post("/v1/models/tec-grain-demo/2/activate").status_code == 200
        old.release()
        faces = second.result().json()["faces"]
        assert [face["model_version"] for face in faces] == ["1", "1"]
        wait_until(lambda: old.closed)


@pytest.mark.usefixtures("two")
def test_frames_that_were_still_on_their_way_are_scored_by_the_bundle_they_are_for(
    settings: Settings, apart: bool
) -> None:
    runtimes = FakeRuntimes()
    document = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64encode(GOOD).decode()]}]}
    content = json.dumps(document).encode()
    first_part_sent, swapped = threading.Event(), threading.Event()

    def in_two_parts() -> Iterator[bytes]:
        yield content[:100]
        first_part_sent.set()
        swapped.wait()
        yield content[100:]

    with running(settings, runtimes, apart=apart) as line, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(line.http.post, "/v2/models/tec-grain-demo/versions/1/infer", content=in_two_parts())
        try:
            first_part_sent.wait()
            wait_until(lambda: line.front._in_flight == 1)
            assert httpx.post(f"{line.url}/v1/models/tec-grain-demo/2/activate", trust_env=False).status_code == 200
        finally:
            swapped.set()
        answer = asked.result()
        assert (answer.status_code, answer.json()["model_version"]) == (200, "1"), answer.text
        wait_until(lambda: runtimes.made[0].closed)


def post_faces(line: Line, images: list[bytes]) -> httpx.Response:
    parts = [("image", image) for image in images]
    return line.http.post("/v1/inspections:batch", files=parts, headers={"Idempotency-Key": "k"})


@pytest.mark.usefixtures("two")
def test_memory_and_editions_are_given_back(settings: Settings) -> None:
    with running(settings, FakeRuntimes(), apart=True) as line:
        for _ in range(5):
            for version in ("2", "1"):
                assert line.http.post(f"/v1/models/tec-grain-demo/{version}/activate").status_code == 200
                assert line.post(GOOD).json()["model_version"] == version
        front: Any = line.front
        [link] = front.host._links
        wait_until(lambda: len(link._editions) == 1)
        assert len(link._memories) == len(front._session._memories) == 1
        assert len(line.station._bundles.loaded) == 1


def test_activations_at_once_take_turns(settings: Settings, weights: Path, apart: bool) -> None:
    for number in range(2, 6):
        write_bundle(weights, version=str(number))
    with running(settings, FakeRuntimes(), apart=apart) as line, ThreadPoolExecutor(4) as pool:

        def activate(number: int) -> int:
            url = f"{line.url}/v1/models/tec-grain-demo/{number}/activate"
            return httpx.post(url, timeout=60, trust_env=False).status_code

        assert list(pool.map(activate, range(2, 6))) == [200] * 4
        history = line.http.get("/v1/recipes/tec-grain").json()
        assert [one["version"] for one in history["versions"]] == [1, 2, 3, 4, 5]
        assert len({one["bundle"] for one in history["versions"]}) == 5
        active = next(one for one in history["versions"] if one["active"])
        assert f"tec-grain-demo/{line.post(GOOD).json()['model_version']}" == active["bundle"]


def test_a_missing_bundle_after_a_restart_is_named_with_its_recipe(settings: Settings, weights: Path) -> None:
    with running(settings, FakeRuntimes()) as line:
        line.post(GOOD)
    (weights / "tec-grain-demo" / "1" / "manifest.json").unlink()
    write_bundle(weights, name="nut-demo")
    other = settings.model_copy(update={"bundle": "nut-demo/1"})
    with running(other, FakeRuntimes(), until_ready=False) as line:
        wait_until(lambda: line.station.state == "failed")
        detail = line.http.get("/readyz").json()["detail"]
        assert "recipe 'tec-grain' version 1 is active: no bundle at" in detail
        assert "has: nut-demo/1" in detail


@pytest.mark.usefixtures("two")
def test_an_engine_that_is_killed_during_a_swap(tmp_path: Path) -> None:
    """Whatever was answered is recorded; the engine comes back with the one bundle or the other, and says which."""
    with several_processes(tmp_path) as service, ThreadPoolExecutor(2) as pool:
        for round_ in range(3):
            stop = threading.Event()
            posting = pool.submit(post_until, service, stop)
            version = "21"[round_ % 2]
            swapping = pool.submit(activate, service, version)
            time.sleep(0.01 * round_)
            os.kill(service.pid("engine"), signal.SIGKILL)
            swapping.result()
            wait_until(lambda: len(service.events("process_ended")) > round_)  # noqa: B023
            wait_until(service.ready)
            stop.set()
            for reply in posting.result():
                record = service.get(f"/v1/inspections/{reply['id']}").json()
                assert all(
                    record[name] == reply[name] for name in ("verdict", "model_version", "recipe_version", "score")
                )
            history = service.get("/v1/recipes/tec-grain").json()
            active = next(one for one in history["versions"] if one["active"])
            reply = service.post().json()
            assert (reply["recipe_version"], f"tec-grain-demo/{reply['model_version']}") == (
                active["version"],
                active["bundle"],
            )


def activate(service: Service, version: str) -> int | None:
    url = f"{service.url}/v1/models/tec-grain-demo/{version}/activate"
    try:
        return httpx.post(url, timeout=60, trust_env=False).status_code
    except httpx.TransportError:
        return None


def post_until(service: Service, stop: threading.Event) -> list[dict[str, Any]]:
    replies = []
    while not stop.is_set():
        response = service.post(DEFECTIVE)
        if response.status_code == 200:
            replies.append(response.json())
    return replies
