import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from fake_detectors import FAKES

from atsnet.benchmark.cell import Backbone, CellResult, read_result
from atsnet.benchmark.plan import Cell, method_variants, plan_cells
from atsnet.benchmark.pool import CellFailure, Place, plan_places, run_cells
from atsnet.data.layout import find_datasets


class Recorder:
    """Keeps all that a pool says; interrupts it at a task, as Ctrl-C would."""

    def __init__(self, interrupt_at: str = "") -> None:
        self.tasks: dict[str, list[str]] = {}
        self.ended: list[str] = []
        self._interrupt_at = interrupt_at

    def expect(self, done: int, total: int) -> None: ...

    def progress(self, _slot: int, cell: Cell, task: str, *_: int) -> None:
        self.tasks.setdefault(str(cell), []).append(task)
        if task == self._interrupt_at:
            raise KeyboardInterrupt

    def finished(self, _slot: int, cell: Cell, _outcome: CellResult | CellFailure) -> None:
        self.ended.append(str(cell))


def plan(parts: Path, tiny: Path, backbone: Backbone, methods: Sequence[str]) -> list[Cell]:
    sha256 = backbone.load()[1].sha256
    variants = method_variants(methods)
    return plan_cells(find_datasets(parts / "left"), variants, 1, backbone_sha256=sha256, config=tiny)


def test_cells_that_fail_or_die_do_not_stop_the_others(
    parts: Path, tiny: Path, backbone: Backbone, tmp_path: Path
) -> None:
    cells = plan(parts, tiny, backbone, ["mkd", "stfpm", "padim"])
    recorder = Recorder()
    outcomes = run_cells(cells, [Place("cpu", 1, 1)], backbone, tmp_path, recorder, FAKES)
    failed, died, finished = (outcomes[cell] for cell in cells)
    assert isinstance(failed, CellFailure)
    assert failed.error == "ValueError: nothing to learn here"
    assert "fake_detectors.py" in failed.trace
    assert isinstance(died, CellFailure)
    assert "exit code 9" in died.error
    assert isinstance(finished, CellResult)
    assert finished == read_result(tmp_path, cells[2])
    assert finished.speed.threads == 1
    assert recorder.ended == [str(cell) for cell in cells]
    assert recorder.tasks["left, padim, seed 0"][0] == "starting"
    assert "reading good images" in recorder.tasks["left, padim, seed 0"]
    assert "learning" in recorder.tasks["left, padim, seed 0"]
    assert multiprocessing.active_children() == []


def test_an_interrupt_leaves_no_process_behind(parts: Path, tiny: Path, backbone: Backbone, tmp_path: Path) -> None:
    cells = plan(parts, tiny, backbone, ["padim", "patchcore"])
    recorder = Recorder(interrupt_at="learning for ever")
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, [Place("cpu", 1, 2)] * 2, backbone, tmp_path, recorder, FAKES)
    assert "left, patchcore, seed 0" not in recorder.ended
    assert read_result(tmp_path, cells[1]) is None
    assert multiprocessing.active_children() == []


def test_nothing_to_run_starts_nothing(backbone: Backbone, tmp_path: Path) -> None:
    assert run_cells([], [Place("cpu", 1, 1)], backbone, tmp_path, Recorder(), FAKES) == {}


@pytest.mark.parametrize(
    ("cores", "gpus", "jobs", "expected"),
    [
        (4, 0, None, [("cpu", 2)] * 2),
        (1, 0, None, [("cpu", 1)]),
        (16, 0, 3, [("cpu", 5)] * 3),
        (2, 0, 4, [("cpu", 1)] * 4),
        (16, 2, None, [("cuda:0", 8), ("cuda:1", 8)]),
        (16, 2, 3, [("cuda:0", 5), ("cuda:1", 5), ("cuda:0", 5)]),
    ],
)
def test_places(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, jobs: int | None, expected: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    places = plan_places(torch.device("cuda" if gpus else "cpu"), jobs)
    assert [(place.device, place.threads) for place in places] == expected
    assert {place.jobs for place in places} == {len(expected)}
