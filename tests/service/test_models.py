"""Bundles that take each other's place, and the golden samples in service; over HTTP, in both forms of the service."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import DEFECTIVE, GOOD, FakeRuntimes, Line, running, wait_until, write_bundle

from atsnet.imaging import Float32Array, InputGeometry, UInt8Array
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

WIDE = InputGeometry(height=512, width=512, color="rgb")


class Wandering(FakeRuntime):
    """Answers a little more than it should, once told to."""

    def __init__(self, *, wanders: bool = False) -> None:
        super().__init__()
        self.wanders = wanders

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        scores, maps = super().run(frames)
        return (scores + np.float32(1), maps) if self.wanders else (scores, maps)


@pytest.fixture
def runtimes() -> FakeRuntimes:
    return FakeRuntimes(Wandering)


@pytest.fixture
def line(settings: Settings, runtimes: FakeRuntimes, apart: bool) -> Iterator[Line]:
    with running(settings, runtimes, apart=apart) as line:
        yield line


@pytest.fixture
def second(weights: Path) -> Path:
    """Another version of the bundle, with other frames, maps and thresholds."""
    return write_bundle(weights, version="2", geometry=WIDE, map_size=64, score_threshold=2.0)


def activate(line: Line, version: str, name: str = "tec-grain-demo") -> httpx.Response:
    return line.http.post(f"/v1/models/{name}/{version}/activate")


def models(line: Line) -> dict[str, Any]:
    return {f"{one['name']}/{one['version']}": one for one in line.http.get("/v1/models").json()["models"]}


@pytest.mark.usefixtures("second")
def test_a_bundle_takes_the_place_of_another(line: Line, runtimes: FakeRuntimes) -> None:
    before = line.post(DEFECTIVE, {"heatmap": "png"}).json()
    assert {name: one["state"] for name, one in models(line).items()} == {
        "tec-grain-demo/1": "active",
        "tec-grain-demo/2": "available",
    }
    activated = activate(line, "2")
    assert activated.status_code == 200
    assert (activated.json()["state"], activated.json()["recipes"]) == ("active", ["tec-grain"])
    after = line.post(DEFECTIVE, {"heatmap": "png"}).json()
    assert (before["model_version"], after["model_version"], after["recipe_version"]) == ("1", "2", 2)
    assert (before["score"], after["score"]) == (1.5625, 1.5625)
    raw = [line.http.get(f"/v1/inspections/{one['id']}").json()["raw_score"] for one in (before, after)]
    assert raw == [6.25, 3.125]
    ready = line.http.get("/readyz").json()
    assert (ready["bundle"], ready["digest"]) == ("tec-grain-demo/2", models(line)["tec-grain-demo/2"]["digest"])
    # What nobody uses any more is closed.
    wait_until(lambda: [runtime.closed for runtime in runtimes.made] == [True, False])
    text = line.http.get("/metrics").text
    assert 'version="2"' in text
    assert 'version="1"' not in text
    # Pictures of what the old bundle inspected are still drawn, whatever the size of its maps was.
    assert line.http.get(f"/v1/inspections/{before['id']}/heatmap.png").status_code == 200


@pytest.mark.usefixtures("second")
def test_what_the_old_bundle_said_follows_and_what_a_person_said_stays(line: Line) -> None:
    line.http.post("/v1/recipes", json={"name": "tec-grain", "threshold": 1.3})
    line.http.post("/v1/recipes/tec-grain/activate", json={"version": 2})
    line.http.post("/v1/recipes", json={"name": "left", "roi": {"x": 0, "y": 0, "width": 128, "height": 256}})
    line.http.post("/v1/recipes/left/activate", json={"version": 1})
    activate(line, "2")
    recipes = {one["name"]: one["versions"][-1] for one in line.http.get("/v1/recipes").json()["recipes"]}
    assert (recipes["tec-grain"]["version"], recipes["tec-grain"]["threshold"]) == (3, 1.3)
    assert (recipes["left"]["version"], recipes["left"]["roi"]["width"]) == (2, 128)
    assert {one["bundle"] for one in recipes.values()} == {"tec-grain-demo/2"}
    assert all(one["active"] for one in recipes.values())


@pytest.mark.usefixtures("second")
def test_replays_bring_the_pictures_of_larger_and_smaller_maps(line: Line) -> None:
    small = {"station": "s", "serial": "a", "trigger": 1, "heatmap": "png"}
    large = {**small, "serial": "b"}
    first = line.post(DEFECTIVE, small).json()
    activate(line, "2")
    second = line.post(DEFECTIVE, large).json()
    for query, expected in ((small, first), (large, second)):
        again = line.post(DEFECTIVE, query).json()
        assert (again["replayed"], again["model_version"]) == (True, expected["model_version"])
        assert again["heatmap"] == expected["heatmap"]


def test_activating_what_is_active_changes_nothing(line: Line) -> None:
    assert activate(line, "1").json()["state"] == "active"
    assert line.post(GOOD).json()["recipe_version"] == 1


def altered(path: Path) -> None:
    (path / "samples" / "good.png").write_bytes(DEFECTIVE)


def without_graph(path: Path) -> None:
    (path / "model.onnx").unlink()


def without_sense(path: Path) -> None:
    (path / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (altered, "is not the file that was validated"),
        (without_graph, "cannot be read"),
        (without_sense, "is not a valid manifest"),
    ],
)
def test_a_damaged_bundle_changes_nothing(line: Line, second: Path, damage: Any, detail: str) -> None:
    damage(second)
    refused = activate(line, "2")
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, 13, "bundle")
    assert detail in refused.json()["detail"]
    assert "what was active stays" in refused.json()["detail"]
    assert line.post(GOOD).json()["model_version"] == "1"
    assert line.http.get("/v1/recipes/tec-grain").json()["active"] == 1
    assert len(line.http.get("/v1/recipes/tec-grain").json()["versions"]) == 1
    assert line.http.get("/readyz").status_code == 200


@pytest.mark.usefixtures("second")
def test_a_bundle_that_fails_its_golden_samples_changes_nothing(line: Line, runtimes: FakeRuntimes) -> None:
    runtimes.make = lambda: Wandering(wanders=True)
    refused = activate(line, "2")
    assert refused.status_code == 422
    assert "samples/good.png: score 2, expected 1" in refused.json()["detail"]
    assert [runtime.closed for runtime in runtimes.made] == [False, True]
    assert line.post(GOOD).json()["model_version"] == "1"


@pytest.mark.usefixtures("second")
def test_a_runtime_that_cannot_load_changes_nothing(line: Line, runtimes: FakeRuntimes) -> None:
    class NoMemory(FakeRuntime):
        def load(self, _: object) -> None:
            raise MemoryError("2 GiB are needed")

    runtimes.make = NoMemory
    refused = activate(line, "2")
    assert (refused.status_code, refused.json()["code"], refused.json()["result"]) == (500, 50, 3)
    assert "2 GiB are needed; what was active stays" in refused.json()["detail"]
    assert line.post(GOOD).json()["model_version"] == "1"


def test_what_there_is_not(line: Line) -> None:
    refused = activate(line, "9")
    assert (refused.status_code, refused.json()["code"]) == (404, 20)
    assert "has: tec-grain-demo/1" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("name", "version"), [("..", "1"), ("%2e%2e", "1"), ("a%2f..%2fb", "1"), ("A", "1"), ("x", "-1")]
)
def test_names_that_no_bundle_can_have_reach_no_file(line: Line, name: str, version: str) -> None:
    refused = line.http.post(f"/v1/models/{name}/{version}/activate")
    assert refused.status_code in (404, 405, 422)
    assert "tec-grain-demo" not in refused.text


def test_more_bundles_than_allowed(settings: Settings, weights: Path, apart: bool) -> None:
    write_bundle(weights, name="nut-demo")
    with running(settings.model_copy(update={"max_bundles": 1}), FakeRuntimes(), apart=apart) as line:
        line.http.post("/v1/recipes", json={"name": "nut", "bundle": "nut-demo/1"})
        refused = line.http.post("/v1/recipes/nut/activate", json={"version": 1})
        assert (refused.status_code, "max_bundles allows 1" in refused.json()["detail"]) == (422, True)


def test_a_bundle_for_a_new_product_brings_its_recipe(line: Line, weights: Path) -> None:
    write_bundle(weights, name="nut-demo", change=lambda manifest: manifest.update(product="nut"))
    assert activate(line, "1", "nut-demo").json()["recipes"] == ["nut"]
    assert line.post(GOOD).json()["recipe"] == "tec-grain"
    assert line.post(GOOD, {"recipe": "nut"}).json()["model"] == "nut-demo"


def test_the_golden_samples_in_service(line: Line) -> None:
    tests = line.http.post("/v1/models/self-test").json()
    assert (tests["passed"], [test["bundle"] for test in tests["bundles"]]) == (True, ["tec-grain-demo/1"])
    assert tests["bundles"][0]["samples"] == 2
    assert models(line)["tec-grain-demo/1"]["self_test"]["passed"] is True
    assert "inspect_self_test_failures_total 0.0" in line.http.get("/metrics").text
    # They are no inspections of the line.
    assert line.http.get("/v1/inspections").json()["items"] == []


def test_a_runtime_that_wanders_off_is_loaded_afresh(line: Line, runtimes: FakeRuntimes) -> None:
    runtimes.made[0].wanders = True
    tests = line.http.post("/v1/models/self-test").json()
    assert tests["passed"] is False
    assert "score 3, expected 2" in tests["bundles"][0]["detail"]
    assert "loaded afresh it passes" in tests["bundles"][0]["detail"]
    wait_until(lambda: [runtime.closed for runtime in runtimes.made] == [True, False])
    assert line.post(GOOD).json()["verdict"] == "pass"
    assert line.http.get("/readyz").status_code == 200
    assert "inspect_self_test_failures_total 1.0" in line.http.get("/metrics").text
    assert line.http.post("/v1/models/self-test").json()["passed"] is True


@pytest.mark.usefixtures("second")
def test_a_bundle_that_is_no_longer_what_was_validated_inspects_no_more(
    line: Line, runtimes: FakeRuntimes, weights: Path
) -> None:
    part = {"station": "s", "serial": "a", "trigger": 1}
    answered = line.post(GOOD, part).json()
    runtimes.made[0].wanders = True
    altered(weights / "tec-grain-demo" / "1")
    assert line.http.post("/v1/models/self-test").json()["passed"] is False
    wait_until(lambda: line.http.get("/readyz").status_code == 503)
    for response in (line.http.get("/readyz"), line.post(GOOD)):
        assert (response.status_code, response.json()["code"], response.json()["result"]) == (503, 40, 0)
        assert "must not inspect" in response.json()["detail"]
    assert models(line)["tec-grain-demo/1"]["state"] == "unfit"
    # What was answered is answered again.
    assert line.post(GOOD, part).json()["id"] == answered["id"]
    # A good bundle puts it right.
    assert activate(line, "2").status_code == 200
    wait_until(lambda: line.http.get("/readyz").status_code == 200)
    assert line.post(GOOD).json()["model_version"] == "2"


def test_the_golden_samples_are_inspected_regularly(settings: Settings, apart: bool) -> None:
    runtimes = FakeRuntimes(Wandering)
    often = settings.model_copy(update={"self_test_hours": 0.05 / 3600})
    with running(often, runtimes, apart=apart) as line:
        runtimes.made[0].wanders = True
        wait_until(lambda: [runtime.closed for runtime in runtimes.made[:2]] == [True, False])
        wait_until(lambda: line.http.get("/readyz").status_code == 200)
        assert line.post(GOOD).json()["verdict"] == "pass"
