"""Drift as the service tells of it: an event when it trips, how a recipe stands, and starting anew."""

import threading
from typing import Any

import pytest
from listening import in_its_loop, listening
from serving import GOOD, Line, running
from sqlalchemy import select

from service.monitoring.documents import DriftDocument, DriftNews
from service.records.schema import audit_trail
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

DRIFT = "/v1/recipes/tec-grain/drift"


def observe(line: Line, parts: int, brightness: float) -> None:
    """Show parts to what watches the recipe, as inspections do; somebody must be listening."""
    drift = line.station.equipment.edition.default.drift
    assert drift is not None
    done = threading.Event()

    def run() -> None:
        for number in range(parts):
            drift.observe(0.5 + number % 7 / 100, brightness + number % 5, 1.0 + number % 3)
        done.set()

    in_its_loop(line, run)
    assert done.wait(30)


def drifted(line: Line) -> None:
    """The first parts are what later ones are compared with, and those are brighter."""
    observe(line, 500, 100.0)
    observe(line, 500, 160.0)


def test_event_when_it_trips(line: Line) -> None:
    with listening(line) as first, listening(line) as second:
        drifted(line)
        event = first.next()
        assert second.next() == event
        assert (event["event"], "id" in event) == ("drift", False)
        news = DriftNews.model_validate(event["data"])
        assert (news.kind, news.recipe, news.quantity, news.alarm.change) == (
            *("drifted", "tec-grain", "brightness"),
            "higher",
        )
        # What has no id moves nothing: the client goes on with the inspections where it was.
        inspected = line.post(GOOD).json()["id"]
        assert first.next()["id"] == inspected
    with listening(line, "0" * 26) as later:
        assert later.next()["id"] == inspected


def test_how_a_recipe_stands_and_starting_anew(line: Line) -> None:
    with listening(line):
        drifted(line)
        before = DriftDocument.model_validate(line.http.get(DRIFT).json())
        assert (before.observations, before.basis, before.learning) == (1000, "production", False)
        alarm = before.quantities["brightness"].alarm
        assert alarm is not None
        assert alarm.change == "higher"
        assert before.level >= 1
        reset = line.http.post(f"{DRIFT}/reset")
        assert reset.status_code == 200
        after = DriftDocument.model_validate(reset.json())
        assert (after.observations, after.learning, after.level, after.quantities) == (0, True, 0, {})
        assert line.http.get(DRIFT).json() == reset.json()
    with line.station.equipment.records.engine.connect() as connection:
        found = select(audit_trail).where(audit_trail.c.action == "reset")
        [entry] = connection.execute(found).mappings().all()
    assert (entry["subject"], entry["actor"]) == ("drift/tec-grain", None)
    assert entry["old"]["quantities"]["brightness"]["alarm"]["change"] == "higher"


@pytest.mark.parametrize(("method", "path"), [("GET", "drift"), ("POST", "drift/reset")])
def test_unknown_recipe(line: Line, method: str, path: str) -> None:
    response = line.http.request(method, f"/v1/recipes/nut/{path}")
    assert (response.status_code, response.json()["code"]) == (404, 20)
    assert response.json()["detail"] == "there is no active recipe 'nut'; active: tec-grain"


def test_what_is_not_watched_says_so(settings: Settings, runtime: FakeRuntime) -> None:
    with running(settings.model_copy(update={"drift_inspections": 0}), runtime) as line:
        for response in (line.http.get(DRIFT), line.http.post(f"{DRIFT}/reset")):
            problem: dict[str, Any] = response.json()
            assert (response.status_code, problem["code"]) == (404, 20)
            assert "drift_inspections" in problem["detail"]
