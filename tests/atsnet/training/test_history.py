from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from atsnet.training import history
from atsnet.training.history import HISTORY_NAME, HistoryRecorder, Session, load_history, loss_curves

CPU = torch.device("cpu")


class Clock:
    """Stands still until somebody turns it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(history, "monotonic", found)
    return found


def take_steps(recorder: HistoryRecorder, task: str, steps: range, total: int) -> None:
    """Steps of a stage, whose loss `1/4` is the step's number."""
    for step in steps:
        recorder.losses = lambda step=step: {"stage1 1/4": float(step), "stage2 1/4": -1.0}
        recorder(task, step, total, {"loss": 0.0})


def steps_and_losses(sessions: tuple[Session, ...], task: str) -> list[tuple[int, Mapping[str, float]]]:
    return [(event.done, event.losses) for event in loss_curves(sessions)[task]]


def test_everything_reported_is_handed_on(tmp_path: Path) -> None:
    told = []
    recorder = HistoryRecorder(tmp_path, CPU, lambda *what: told.append(what), resumed=False)
    recorder("loading images", 1, 2)
    recorder("stage 1 (teacher)", 1, 3, {"loss": 0.5})
    assert told == [("loading images", 1, 2, None), ("stage 1 (teacher)", 1, 3, {"loss": 0.5})]


def test_a_phase_lasts_from_the_end_of_the_one_before(tmp_path: Path, clock: Clock) -> None:
    recorder = HistoryRecorder(tmp_path, CPU, resumed=False)
    for task, done, total, seconds in (
        ("loading images", 1, 3, 2),
        ("loading images", 2, 3, 1),
        ("loading images", 3, 3, 1),
        ("features of the trunk", 3, 3, 5),
        ("features of the trunk", 4, 8, 10),  # of other images: nobody told that they were made meanwhile
        ("features of the trunk", 8, 8, 1),
        ("features of the trunk", 8, 8, 3),
    ):
        clock.now += seconds
        recorder(task, done, total)
    (session,) = load_history(tmp_path)
    assert [(phase.task, phase.first, phase.done, phase.total, phase.seconds) for phase in session.phases] == [
        ("loading images", 1, 3, 3, 4),
        ("features of the trunk", 3, 8, 8, 16),
        ("features of the trunk", 8, 8, 8, 3),
    ]
    assert session.seconds == 23


def test_losses_are_those_of_the_stage_that_is_going_on(tmp_path: Path) -> None:
    recorder = HistoryRecorder(tmp_path, CPU, resumed=False)
    take_steps(recorder, "stage 1 (teacher)", range(1, 4), 3)
    assert steps_and_losses(load_history(tmp_path), "stage 1 (teacher)") == [(n, {"1/4": n}) for n in (1, 2, 3)]


def test_of_many_steps_some_are_kept_evenly_and_the_last_one(tmp_path: Path) -> None:
    recorder = HistoryRecorder(tmp_path, CPU, resumed=False)
    take_steps(recorder, "stage 1 (teacher)", range(1, 1006), 1005)
    steps = [step for step, _ in steps_and_losses(load_history(tmp_path), "stage 1 (teacher)")]
    assert steps == [1, *range(4, 1005, 4), 1005]


def test_a_resumed_run_goes_on_with_its_history_and_takes_lost_steps_again(tmp_path: Path, clock: Clock) -> None:
    task = "stage 1 (teacher)"
    recorder = HistoryRecorder(tmp_path, CPU, resumed=False)
    clock.now += 8
    take_steps(recorder, task, range(1, 8), 10)
    clock.now += 100  # nobody trained
    recorder = HistoryRecorder(tmp_path, CPU, resumed=True)
    clock.now += 2
    take_steps(recorder, task, range(5, 11), 10)  # the checkpoint was of step 4
    first, second = load_history(tmp_path)
    assert (first.start.resumed, second.start.resumed) == (False, True)
    assert (first.seconds, second.seconds) == (8, 2)
    assert second.phases[0].first == 5
    assert [step for step, _ in steps_and_losses((first, second), task)] == list(range(1, 11))


def test_a_run_that_starts_again_forgets_the_history_before(tmp_path: Path) -> None:
    HistoryRecorder(tmp_path, CPU, resumed=False)("loading images", 1, 1)
    HistoryRecorder(tmp_path, CPU, resumed=False)
    (session,) = load_history(tmp_path)
    assert session.events == ()


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    task, path = "stage 1 (teacher)", tmp_path / HISTORY_NAME
    take_steps(HistoryRecorder(tmp_path, CPU, resumed=False), task, range(1, 4), 6)
    path.write_bytes(path.read_bytes()[:-20])
    take_steps(HistoryRecorder(tmp_path, CPU, resumed=True), task, range(4, 7), 6)
    sessions = load_history(tmp_path)
    assert [step for step, _ in steps_and_losses(sessions, task)] == [1, 2, 4, 5, 6]
    assert len(sessions) == 2


def test_a_run_from_before_there_was_a_history_has_none(tmp_path: Path) -> None:
    assert load_history(tmp_path) == ()
    take_steps(HistoryRecorder(tmp_path, CPU, resumed=True), "stage 1 (teacher)", range(4, 7), 6)
    (session,) = load_history(tmp_path)
    assert session.start.resumed
