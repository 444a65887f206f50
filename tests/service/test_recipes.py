"""Recipes as people see them: versions, activation, previews; over HTTP, in both forms of the service."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import DEFECTIVE, GOOD, FakeRuntimes, Line, encode, good_image, running, write_bundle

from atsnet.imaging import InputGeometry
from service.records.audit import entries
from service.settings import Settings

NAME = "tec-grain"


@pytest.fixture
def line(settings: Settings, apart: bool) -> Iterator[Line]:
    with running(settings, FakeRuntimes(), apart=apart) as line:
        yield line


def draft(line: Line, **said: Any) -> httpx.Response:
    return line.http.post("/v1/recipes", json={"name": NAME, **said})


def activate(line: Line, version: int, name: str = NAME, **said: Any) -> httpx.Response:
    return line.http.post(f"/v1/recipes/{name}/activate", json={"version": version, **said})


def test_the_bundle_brings_the_first_recipe_along(line: Line) -> None:
    listed = line.http.get("/v1/recipes").json()
    assert listed["default"] == NAME
    [recipe] = listed["recipes"]
    assert (recipe["name"], recipe["active"], recipe["default"]) == (NAME, 1, True)
    [version] = recipe["versions"]
    assert (version["bundle"], version["threshold"], version["created_by"]) == ("tec-grain-demo/1", 1.0, "service")
    assert line.http.get(f"/v1/recipes/{NAME}").json() == recipe


def test_a_version_inspects_once_it_is_active(line: Line) -> None:
    created = draft(line, threshold=1.6, review_from=0.4)
    assert created.status_code == 201
    assert (created.json()["version"], created.json()["active"]) == (2, False)
    assert line.post(DEFECTIVE).json()["verdict"] == "fail"
    activated = activate(line, 2)
    assert (activated.status_code, activated.json()["active"], activated.json()["default"]) == (200, True, True)
    reply = line.post(DEFECTIVE).json()
    assert (reply["verdict"], reply["recipe_version"], reply["threshold"]) == ("review", 2, 1.6)
    assert line.http.get(f"/v1/inspections/{reply['id']}").json()["recipe_version"] == 2
    # Back again, by the number; nothing of either version has changed.
    assert activate(line, 1).status_code == 200
    assert line.post(DEFECTIVE).json()["verdict"] == "fail"
    history = line.http.get(f"/v1/recipes/{NAME}").json()
    assert (history["active"], [one["threshold"] for one in history["versions"]]) == (1, [1.0, 1.6])


def test_what_a_draft_leaves_out_is_as_in_the_active_version(line: Line) -> None:
    draft(line, threshold=1.2, review_from=0.8, roi={"x": 0, "y": 0, "width": 100, "height": 100})
    activate(line, 2)
    third = draft(line, review_from=None).json()
    assert (third["threshold"], third["review_from"], third["roi"]["width"]) == (1.2, None, 100)


def test_the_region_of_interest_is_what_is_inspected(line: Line) -> None:
    draft(line, roi={"x": 0, "y": 128, "width": 256, "height": 128})
    activate(line, 2)
    assert line.post(DEFECTIVE).json()["verdict"] == "pass"
    small = line.post(encode(good_image()[:100])).json()
    assert (small["code"], "reaches over the edge" in small["detail"]) == (12, True)


def test_gates_turn_images_away_and_say_which_figure(line: Line) -> None:
    draft(line, gates={"brightness": {"min": 80}}, max_side=300)
    activate(line, 2)
    refused = line.post(GOOD, {"trigger": 3}).json()
    assert (refused["status"], refused["code"], refused["trigger"]) == (422, 12, 3)
    assert "brightness gate of recipe 'tec-grain'" in refused["detail"]
    assert "is 64, below the gate's 80" in refused["detail"]
    large = line.post(encode(good_image().repeat(2, axis=0)))
    assert "at most 300" in large.json()["detail"]


def test_products_have_recipes_of_their_own(line: Line) -> None:
    assert draft(line, name="nut", threshold=2).json()["version"] == 1
    assert line.post(DEFECTIVE, {"recipe": "nut"}).status_code == 404
    assert activate(line, 1, "nut").json()["default"] is False
    assert line.post(DEFECTIVE, {"recipe": "nut"}).json()["verdict"] == "pass"
    assert line.post(DEFECTIVE).json()["verdict"] == "fail"
    assert activate(line, 1, "nut", default=True).json()["default"] is True
    assert line.post(DEFECTIVE).json()["recipe"] == "nut"
    assert line.http.get("/v1/recipes").json()["default"] == "nut"


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"name": "../etc"}, "name"),
        ({"name": "UPPER"}, "name"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": "NaN"}, "threshold"),
        ({"bundle": "../../x"}, "bundle"),
        ({"bundle": "x/.."}, "bundle"),
        ({"unheard": 1}, "unheard"),
        ({"gates": {"brightness": {"min": 9, "max": 1}}}, "gates.brightness"),
        ({"threshold": 0.5, "review_from": 0.7}, "recipe"),
        ({"min_side": 10, "max_side": 5}, "recipe"),
        ({"max_side": 10**23}, "max_side"),
        ({"roi": {"x": 0, "y": 0, "width": 10**23, "height": 1}}, "roi.width"),
        ({"roi": {"x": -1, "y": 0, "width": 1, "height": 1}}, "roi.x"),
    ],
)
def test_wrong_drafts_name_the_field(line: Line, said: dict[str, Any], field: str) -> None:
    refused = draft(line, **said)
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, 13, field)
    assert len(line.http.get(f"/v1/recipes/{NAME}").json()["versions"]) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7"])
def test_bodies_that_are_no_recipe(line: Line, body: bytes) -> None:
    refused = line.http.post("/v1/recipes", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (422, 13)


def test_what_there_is_not(line: Line) -> None:
    for refused in (
        line.http.get("/v1/recipes/nut"),
        activate(line, 1, "nut"),
        activate(line, 7),
        line.http.post("/v1/recipes/nut/preview", json={}),
        draft(line, bundle="tec-grain-demo/9"),
    ):
        assert (refused.status_code, refused.json()["code"]) == (404, 20)
    assert "has no version 7; has: 1" in activate(line, 7).json()["detail"]
    assert "has: tec-grain-demo/1" in draft(line, bundle="tec-grain-demo/9").json()["detail"]


def test_previews_count_and_list_what_would_change(line: Line) -> None:
    good, bad = line.post(GOOD).json()["id"], line.post(DEFECTIVE, {"serial": "A1"}).json()["id"]
    line.post(b"no image")
    url = f"/v1/recipes/{NAME}/preview"
    same = line.http.post(url, json={}).json()
    assert (same["inspections"], same["was"], same["would_be"], same["changed"]) == (
        2,
        {"pass": 1, "fail": 1},
        {"pass": 1, "fail": 1},
        0,
    )
    other = line.http.post(url, json={"threshold": 2, "review_from": 0.4}).json()
    assert (other["would_be"], other["changed"]) == ({"review": 2}, 2)
    assert [(one["id"], one["was"], one["would_be"]) for one in other["changes"]] == [
        (bad, "fail", "review"),
        (good, "pass", "review"),
    ]
    assert other["changes"][0]["serial"] == "A1"
    few = line.http.post(url, json={"threshold": 0.1, "limit": 0}).json()
    assert (few["changed"], few["changes"]) == (1, [])
    arrived = line.http.get(f"/v1/inspections/{bad}").json()["created"]
    since = line.http.post(url, json={"threshold": 2, "since": arrived}).json()
    until = line.http.post(url, json={"threshold": 2, "until": arrived}).json()
    assert (since["was"], until["was"]) == ({"fail": 1}, {"pass": 1})
    assert line.http.post(url, json={"bundle": "tec-grain-demo/2"}).json()["inspections"] == 0
    assert line.http.post(url, json={"bundle": "tec-grain-demo/1"}).json()["inspections"] == 2
    wrong = line.http.post(url, json={"threshold": 1, "review_from": 3}).json()
    assert (wrong["code"], wrong["field"]) == (13, "review_from")
    # Nothing was changed by it.
    assert line.http.get(f"/v1/inspections/{good}").json()["verdict"] == "pass"
    assert line.http.get("/v1/recipes").json()["recipes"][0]["active"] == 1


@pytest.mark.parametrize("moment", [1777593600, 1777593600.5, "1777593600", "2026-05-01T06:00:00"])
def test_period_of_a_preview_is_iso_8601_with_its_zone(line: Line, moment: object) -> None:
    response = line.http.post(f"/v1/recipes/{NAME}/preview", json={"since": moment})
    assert (response.status_code, response.json()["code"], response.json()["field"]) == (422, 13, "since")


def test_previews_judge_at_the_limits_as_verdicts_do(line: Line) -> None:
    line.post(DEFECTIVE)  # 200 / 128 exactly
    url = f"/v1/recipes/{NAME}/preview"
    assert line.http.post(url, json={"threshold": 1.5625}).json()["would_be"] == {"pass": 1}
    assert line.http.post(url, json={"threshold": 1.5624}).json()["would_be"] == {"fail": 1}
    at_limit = {"threshold": 1.5625, "review_from": 1.5625}
    assert line.http.post(url, json=at_limit).json()["would_be"] == {"review": 1}


def test_what_was_active_is_active_after_a_restart(settings: Settings, apart: bool) -> None:
    with running(settings, FakeRuntimes(), apart=apart) as line:
        draft(line, threshold=1.6)
        activate(line, 2)
        draft(line, name="nut")
        activate(line, 1, "nut", default=True)
    write_bundle(settings.weights, version="2")
    other = settings.model_copy(update={"bundle": "tec-grain-demo/2"})
    with running(other, FakeRuntimes(), apart=apart) as line:
        assert line.post(GOOD).json()["recipe"] == "nut"
        reply = line.post(DEFECTIVE, {"recipe": NAME}).json()
        assert (reply["verdict"], reply["recipe_version"], reply["model_version"]) == ("pass", 2, "1")
        assert line.http.get("/readyz").json()["bundle"] == "tec-grain-demo/1"


def test_every_change_is_in_the_audit_trail(line: Line) -> None:
    draft(line, threshold=1.6)
    activate(line, 2)
    with line.station.equipment.records.engine.connect() as connection:
        trail = [(entry.actor, entry.action, entry.subject, entry.old, entry.new) for entry in entries(connection)]
    trail = [entry for entry in trail if entry[2].startswith("recipe/")]
    actions = [(actor, action, subject) for actor, action, subject, _, _ in trail]
    assert actions == [
        ("service", "created", "recipe/tec-grain"),
        ("service", "activated", "recipe/tec-grain"),
        (None, "created", "recipe/tec-grain"),
        (None, "activated", "recipe/tec-grain"),
    ]
    assert (trail[2][4]["version"], trail[2][4]["threshold"]) == (2, 1.6)
    assert (trail[3][3]["version"], trail[3][4]["version"]) == (1, 2)


def test_a_recipe_may_name_another_bundle_of_other_frames_and_maps(line: Line) -> None:
    geometry = InputGeometry(height=512, width=512, color="rgb")
    write_bundle(line.station.settings.weights, name="wide", geometry=geometry, map_size=64, score_threshold=2.0)
    draft(line, name="nut", bundle="wide/1")
    assert activate(line, 1, "nut").status_code == 200
    for _ in range(2):
        one, other = line.post(DEFECTIVE).json(), line.post(DEFECTIVE, {"recipe": "nut", "heatmap": "overlay"}).json()
        assert (one["model"], other["model"]) == ("tec-grain-demo", "wide")
        assert (one["verdict"], other["verdict"]) == ("fail", "fail")
        assert other["heatmap"].startswith("iVBOR")
    models = {model["name"]: model for model in line.http.get("/v1/models").json()["models"]}
    assert (models["wide"]["state"], models["wide"]["recipes"]) == ("active", ["nut"])


def test_pictures_look_as_the_recipe_says_now_and_later(line: Line) -> None:
    plain = line.post(DEFECTIVE, {"heatmap": "overlay"}).json()
    draft(line, heatmap={"colors": "bone", "top": 4, "opacity": 0.2, "contour": False})
    activate(line, 2)
    other = line.post(DEFECTIVE, {"heatmap": "overlay"}).json()
    assert plain["heatmap"] != other["heatmap"]
    activate(line, 1)
    for reply in (plain, other):
        later = line.http.get(f"/v1/inspections/{reply['id']}/overlay.png").content
        assert base64.b64encode(later).decode() == reply["heatmap"]


def test_a_recipe_begins_with_the_gates_that_its_bundle_learned(settings: Settings, weights: Path) -> None:
    gates = {"brightness": {"min": 70.0, "max": None}}
    write_bundle(weights, version="2", change=lambda manifest: manifest.update(gates=gates))
    with running(settings.model_copy(update={"bundle": "tec-grain-demo/2"}), FakeRuntimes()) as line:
        recipe = line.http.get(f"/v1/recipes/{NAME}").json()["versions"][0]
        assert recipe["gates"]["brightness"]["min"] == 70
        assert line.post(GOOD).json()["code"] == 12
        # The golden samples are known by name, whatever they look like.
        assert line.http.post("/v1/models/self-test").json()["passed"] is True


def test_drift_is_watched_by_recipe_and_begins_anew_with_a_version(settings: Settings, apart: bool) -> None:
    with running(settings, FakeRuntimes(), apart=apart) as line:
        for _ in range(3):
            line.post(GOOD)
        watched = line.station.equipment.edition.default.drift
        assert watched is not None
        assert watched.state.observations == 3
        assert 'inspect_score_drift{recipe="tec-grain"} 0.0' in line.http.get("/metrics").text
        draft(line, name="nut")
        activate(line, 1, "nut")
        assert line.station.equipment.edition.default.drift is watched
        draft(line, threshold=1.1)
        activate(line, 2)
        line.post(GOOD)
        after = line.station.equipment.edition.default.drift
        assert after is not None
        assert (after.state.observations, watched.state.observations) == (1, 3)


def test_nothing_is_measured_that_nobody_wants_to_know(settings: Settings, apart: bool) -> None:
    with running(settings.model_copy(update={"drift_inspections": 0}), FakeRuntimes(), apart=apart) as line:
        setup = line.station.equipment.edition.default
        assert (setup.drift, setup.plan.with_quality) == (None, False)
        assert line.post(GOOD).json()["verdict"] == "pass"
        assert "inspect_score_drift{" not in line.http.get("/metrics").text
