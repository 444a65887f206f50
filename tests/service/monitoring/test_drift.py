import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydantic import ValidationError

from atsnet.reference import Reference
from service.monitoring.drift import DriftEvent, DriftMonitor, DriftSettings, DriftWatch
from service.monitoring.stability import psi_limit

SETTINGS = DriftSettings(inspections_per_false_alarm=100_000, window=200, tolerance=0.0)
START = datetime(2026, 3, 1, tzinfo=UTC)


class Line:
    """Inspections of one recipe, a second apart."""

    def __init__(self, settings: DriftSettings = SETTINGS, *, reference: bool = True) -> None:
        self.rng = np.random.default_rng(0)
        self.events: list[DriftEvent] = []
        self.now = START
        made = Reference.of(*self.rng.normal(size=(3, 400))) if reference else None
        self.monitor = DriftMonitor("tec-a", "3", made, settings, self.events.append, lambda: self.now)

    def run(self, inspections: int, score: float = 0.0, brightness: float = 0.0, sharpness: float = 0.0) -> None:
        for values in self.rng.normal((score, brightness, sharpness), size=(inspections, 3)).tolist():
            self.now += timedelta(seconds=1)
            self.monitor.observe(*values)


def kinds(events: list[DriftEvent]) -> list[tuple[str, str]]:
    return [(event.quantity, event.kind) for event in events]


def test_quiet_without_a_change() -> None:
    line = Line(DriftSettings())
    line.run(10_000)
    state = line.monitor.state
    assert not line.events
    assert not state.alarm
    assert not state.learning
    assert state.basis == "calibration"
    assert state.observations == 10_000
    assert 0 < state.level < 1


def test_alarm_before_the_first_window_is_full_can_be_told() -> None:
    line = Line()
    line.run(100, brightness=3.0)
    [event] = line.events
    assert event.state.psi is None
    assert event.message.startswith("recipe 'tec-a': the brightness is higher than before (evidence ")


def test_one_alarm_is_one_event() -> None:
    line = Line()
    line.run(1000)
    line.run(5000, brightness=1.0)
    assert kinds(line.events) == [("brightness", "drifted")]
    event = line.events[0]
    assert event.recipe == "tec-a"
    assert event.revision == "3"
    assert event.alarm.test == "sequential"
    assert event.alarm.change == "higher"
    assert 1000 < event.alarm.observation < 1100
    assert event.at == event.alarm.since == START + timedelta(seconds=event.alarm.observation)
    assert event.message.startswith("recipe 'tec-a': the brightness is higher than before (evidence ")
    state = line.monitor.state
    assert state.quantities["brightness"].alarm == event.alarm
    assert state.quantities["score"].alarm is None
    assert state.alarm
    assert state.level >= 1


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_ends_when_a_window_was_quiet_and_can_come_again(shift: float) -> None:
    line = Line()
    line.run(2000)
    line.run(600, sharpness=-shift)
    line.run(3000)
    assert kinds(line.events) == [("sharpness", "drifted"), ("sharpness", "recovered")]
    drifted, recovered = line.events
    assert drifted.alarm.change == "lower"
    assert recovered.alarm == drifted.alarm
    assert timedelta(seconds=2550 + SETTINGS.window) < recovered.at - START < timedelta(seconds=5600)
    assert "the sharpness is back" in recovered.message
    assert not line.monitor.state.alarm
    line.run(600, sharpness=-shift)
    assert kinds(line.events[2:]) == [("sharpness", "drifted")]


def test_false_alarms_are_as_rare_as_set() -> None:
    settings, alarms, runs = DriftSettings(inspections_per_false_alarm=5000, window=200, tolerance=0.0), 0, 12
    for seed in range(runs):
        rng, events = np.random.default_rng(seed), list[DriftEvent]()
        monitor = DriftMonitor("a", "1", Reference.of(*rng.normal(size=(3, 200))), settings, events.append)
        for values in rng.normal(size=(5000, 3)).tolist():
            monitor.observe(*values)
        alarms += sum(event.kind == "drifted" for event in events)
    # As many as runs are allowed; three times as many would be by chance once in a million.
    assert 0 < alarms <= runs


def test_after_an_alarm_it_learns_again() -> None:
    # A shift of 0.25 is told from 20,000 unshifted parts, not from 400 calibration images.
    line = Line()
    line.run(600, score=2.0)
    line.run(20_000)
    line.run(2000, score=0.3)
    assert [event.kind for event in line.events if event.quantity == "score"][:3] == ["drifted", "recovered", "drifted"]
    assert next(event for event in line.events[2:] if event.quantity == "score").alarm.observation > 20_600


def test_the_allowance_is_shared_by_six_tests() -> None:
    state = Line().monitor.state.quantities["score"]
    assert state.evidence_limit == 600_000
    # A look every 20 inspections.
    assert state.psi_limit == psi_limit(12, 400, 200, 20 / 600_000)


def test_each_quantity_has_an_alarm_of_its_own() -> None:
    line = Line()
    line.run(1000)
    line.run(500, brightness=-1.5)
    line.run(500, brightness=-1.5, score=1.0)
    assert kinds(line.events) == [("brightness", "drifted"), ("score", "drifted")]


def test_the_stability_index_finds_what_is_neither_a_shift_nor_a_spread() -> None:
    line = Line()
    for value in np.round(line.rng.normal(size=1000) * 1.3) / 1.3:
        line.monitor.observe(value, *line.rng.normal(size=2).tolist())
    assert kinds(line.events) == [("score", "drifted")]
    assert line.events[0].alarm.test == "stability"
    assert line.events[0].alarm.observation == SETTINGS.window
    state = line.events[0].state
    assert state.psi is not None
    assert state.psi > state.psi_limit
    assert f"stability index {state.psi:.2f}" in line.events[0].message


def test_no_index_before_the_window_is_full() -> None:
    line = Line()
    line.run(SETTINGS.window - 1)
    assert line.monitor.state.quantities["score"].psi is None
    line.run(1)
    assert line.monitor.state.quantities["score"].psi is not None


def test_a_stuck_camera_is_found() -> None:
    line = Line()
    line.run(500)
    for _ in range(200):
        line.monitor.observe(0.1, 0.1, 0.1)
    assert sorted(event.quantity for event in line.events) == ["brightness", "score", "sharpness"]


def test_what_is_not_a_number_counts_as_high() -> None:
    line = Line()
    line.run(500)
    for values in line.rng.normal(size=(100, 2)).tolist():
        line.monitor.observe(values[0], values[1], math.nan)
    assert kinds(line.events) == [("sharpness", "drifted")]
    assert line.events[0].alarm.change == "higher"


def test_reset_begins_anew() -> None:
    line = Line()
    line.run(500, score=2.0)
    assert line.monitor.state.alarm
    line.monitor.reset()
    state = line.monitor.state
    assert not state.alarm
    assert state.observations == 0
    assert state.level == 0
    line.run(500, score=2.0)
    assert kinds(line.events) == [("score", "drifted"), ("score", "drifted")]


def test_without_a_reference_the_first_inspections_are_one() -> None:
    line = Line(SETTINGS.model_copy(update={"baseline": 300}), reference=False)
    line.run(200, score=5.0)
    line.monitor.observe(math.nan, 0.0, 0.0)
    line.run(99, score=5.0)
    assert line.monitor.state.learning
    assert line.monitor.state.basis == "production"
    assert line.monitor.state.level == 0
    line.run(1, score=5.0)
    assert not line.monitor.state.learning
    line.run(3000, score=5.0)
    assert not line.events
    line.run(300, score=6.5)
    assert kinds(line.events) == [("score", "drifted")]


def test_another_revision_begins_anew() -> None:
    events: list[DriftEvent] = []
    watch = DriftWatch(events.append, SETTINGS)
    reference = Reference.of(*np.random.default_rng(0).normal(size=(3, 200)))
    monitor = watch.monitor("a", "1", reference)
    monitor.observe(0.0, 0.0, 0.0)
    assert watch.monitor("a", "1", reference) is monitor
    other = watch.monitor("a", "2", reference)
    assert other is not monitor
    assert watch.find("a") is other
    assert [(state.recipe, state.revision, state.observations) for state in watch.states] == [("a", "2", 0)]


def test_only_so_many_recipes_are_watched() -> None:
    watch = DriftWatch(max_recipes=3)
    first = watch.monitor("0", "1", None)
    for name in "123":
        # Asked for again, it is not the one that was longest not asked for.
        assert watch.monitor("0", "1", None) is first
        watch.monitor(name, "1", None)
    assert [state.recipe for state in watch.states] == ["2", "0", "3"]
    assert watch.find("1") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 205},
        {"window": 10},
        {"baseline": 5},
        {"tolerance": -0.1},
        {"inspections_per_false_alarm": 0},
        {"unknown": 1},
    ],
)
def test_refuses_settings_that_make_no_sense(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DriftSettings.model_validate(changes)
