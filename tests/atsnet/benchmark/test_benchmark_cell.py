import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detectors import FAKES, Brightness

from atsnet.benchmark import cell as cell_module
from atsnet.benchmark.cell import Backbone, CellResult, CellRunner, read_result, result_path, write_result
from atsnet.benchmark.plan import Cell, method_variants, plan_cells
from atsnet.calibration import calibrate, load_calibration
from atsnet.data.frames import load_frames
from atsnet.data.layout import find_datasets, split_holdout
from atsnet.imaging import UInt8Array
from atsnet.progress import Reporter, silent
from atsnet.training.run_directory import MODEL_NAME
from atsnet.training.train import train_run

CPU = torch.device("cpu")


@pytest.fixture
def runner(backbone: Backbone, tmp_path: Path) -> CellRunner:
    return CellRunner(backbone, tmp_path, CPU, jobs=3, baselines=FAKES)


def cells_of(parts: Path, tiny: Path, backbone: Backbone, method: str, *, steps: int = 3) -> list[Cell]:
    return plan_cells(
        find_datasets(parts),
        method_variants([method]),
        2,
        backbone_sha256=backbone.load()[1].sha256,
        config=tiny,
        assignments=[f"training.stage2_steps={steps}"],
    )


def test_a_baseline_learns_from_the_split_of_train_run(
    runner: CellRunner, parts: Path, tiny: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[UInt8Array, UInt8Array]] = []
    fit = Brightness.fit

    def watched(self: Brightness, train: UInt8Array, holdout: UInt8Array, report: Reporter = silent) -> None:
        seen.append((train, holdout))
        fit(self, train, holdout, report)

    monkeypatch.setattr(Brightness, "fit", watched)
    cell = cells_of(parts, tiny, backbone, "padim")[1]
    result = runner.run(cell)
    train, holdout = split_holdout(cell.dataset.train, 0.4, seed=1)
    np.testing.assert_array_equal(seen[0][0], load_frames(train, cell.config.input).pixels)
    held_out = load_frames(holdout, cell.config.input).pixels
    np.testing.assert_array_equal(seen[0][1], held_out)
    assert (result.part, result.variant, result.seed) == ("left", "padim", 1)
    assert (result.learned_from, result.held_out) == (7, 5)
    detector = Brightness(runner.trunk, cell.config.input, 1)
    detector.fit(seen[0][0], held_out)
    raw = detector.score(held_out)
    expected = calibrate(raw.scores, raw.maps.max(axis=(1, 2)), cell.config.calibration)
    assert result.calibration.score_threshold == pytest.approx(expected.score_threshold)
    assert result.report.decisions is not None
    assert result.report.decisions.score_threshold == result.calibration.score_threshold
    assert result.report.images == 8
    assert (result.size.trunk, result.size.learned) == (1_000_000, 64 * 64)
    assert (result.speed.jobs, result.speed.threads) == (3, torch.get_num_threads())
    assert result.speed.ms > 0


def test_results_are_found_again_unless_their_inputs_differ(
    runner: CellRunner, parts: Path, tiny: Path, backbone: Backbone, tmp_path: Path
) -> None:
    cell = cells_of(parts, tiny, backbone, "padim")[0]
    assert read_result(tmp_path, cell) is None
    result = runner.run(cell)
    assert read_result(tmp_path, cell) == result
    other = dataclasses.replace(cell, inputs=cell.inputs.model_copy(update={"test": "altered"}))
    assert read_result(tmp_path, other) is None
    path = result_path(tmp_path, cell)
    path.write_bytes(path.read_bytes()[:-20])
    assert read_result(tmp_path, cell) is None
    write_result(tmp_path, cell, result)
    assert read_result(tmp_path, cell) == result
    assert [file.name for file in path.parent.iterdir()] == ["seed-0.json"]


def test_the_images_of_a_part_are_read_once(
    runner: CellRunner, parts: Path, tiny: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = cell_module.load_test_set

    def watched(dataset: object, *rest: object) -> object:
        read.append(dataset.name)  # type: ignore[attr-defined]
        return load(dataset, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cell_module, "load_test_set", watched)
    results = [runner.run(cell) for cell in cells_of(parts, tiny, backbone, "padim")]
    assert read == ["left", "right"]
    assert [result.report.dataset for result in results] == ["left", "left", "right", "right"]
    assert results[0].report.image_auroc != results[2].report.image_auroc


def test_a_trunk_that_was_exchanged_is_noticed(runner: CellRunner, parts: Path, tiny: Path, backbone: Backbone) -> None:
    cell = cells_of(parts, tiny, backbone, "padim")[0]
    other = dataclasses.replace(cell, inputs=cell.inputs.model_copy(update={"backbone": "0" * 64}))
    with pytest.raises(ValueError, match="altered since"):
        runner.run(other)


def _stop_at(task: str, done: int) -> Reporter:
    def report(name: str, now: int, *_: object) -> None:
        if name.startswith(task) and now == done:
            raise KeyboardInterrupt

    return report


def test_ats_net_goes_on_where_it_was_interrupted(
    runner: CellRunner, parts: Path, tiny: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells_of(parts, tiny, backbone, "ats-net")[0]
    with pytest.raises(KeyboardInterrupt):
        runner.run(cell, _stop_at("stage 2", 1))
    directory = tmp_path / "runs" / "left" / "ats-net" / "seed-0"
    assert json.loads((directory / "state.json").read_text())["stage"] == 2
    with pytest.raises(KeyboardInterrupt):
        runner.run(cell, _stop_at("scoring", 5))  # trained, not yet scored
    model = (directory / MODEL_NAME).read_bytes()
    trained: list[str] = []
    monkeypatch.setattr(cell_module, "train_run", lambda *_, **__: trained.append("again"))
    result = runner.run(cell)
    assert trained == []
    assert (directory / MODEL_NAME).read_bytes() == model
    calibration = load_calibration(directory)
    assert calibration == result.calibration
    assert result.size.trunk == 2_782_784
    assert result.size.learned > 0
    assert result.size.macs is not None
    whole = tmp_path / "whole"
    train_run(cell.config, cell.dataset, runner.trunk, runner.source, whole, device=CPU)
    assert (whole / MODEL_NAME).read_bytes() == model


def test_a_run_that_was_made_from_something_else_is_made_again(
    runner: CellRunner, parts: Path, tiny: Path, backbone: Backbone, tmp_path: Path
) -> None:
    first, second = (cells_of(parts, tiny, backbone, "ats-net", steps=steps)[0] for steps in (2, 3))
    finished: CellResult = runner.run(first)
    assert runner.run(second).inputs != finished.inputs
    with pytest.raises(KeyboardInterrupt):
        runner.run(first, _stop_at("stage 1", 2))
    runner.run(second)
    config = json.loads((tmp_path / "runs/left/ats-net/seed-0/config.json").read_text())
    assert config["training"]["stage2_steps"] == 3
