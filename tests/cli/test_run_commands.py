"""What calibrate, evaluate and export say of input that they cannot use."""

import shutil
import sys
from pathlib import Path

import pytest
from invoking import atsnet

NAMES = ("--name", "tiny", "--version", "9", "--product", "tec-grain")


@pytest.fixture
def bare_run(run: Path, tmp_path: Path) -> Path:
    """A run that was trained and no more."""
    for name in ("config.json", "run.json", "model.safetensors"):
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(run / name, tmp_path / "run" / name)
    return tmp_path / "run"


@pytest.mark.parametrize("command", [("calibrate",), ("evaluate",), ("export", *NAMES)])
def test_what_is_no_run(command: tuple[str, ...], grains: Path, tmp_path: Path) -> None:
    name, *options = command
    result = atsnet(name, tmp_path / "none", grains, *options)
    assert result.exit_code == 4
    assert "is no training run" in result.stderr


@pytest.mark.parametrize("command", [("calibrate",), ("evaluate",), ("export", *NAMES)])
def test_data_that_is_not_there(command: tuple[str, ...], run: Path, tmp_path: Path) -> None:
    name, *options = command
    result = atsnet(name, run, tmp_path / "none", *options)
    assert result.exit_code == 3
    assert str(tmp_path / "none") in result.stderr


def test_evaluating_without_test_images(bare_run: Path, grains: Path) -> None:
    result = atsnet("evaluate", bare_run, grains / "train")
    assert result.exit_code == 3
    assert "no test images" in result.stderr


def test_calibrating_on_other_images(bare_run: Path, grains: Path) -> None:
    result = atsnet("calibrate", bare_run, grains / "test" / "good")
    assert result.exit_code == 4
    assert "is not the folder" in result.stderr
    assert not (bare_run / "calibration.json").exists()


def test_calibrating_for_other_rates_with_further_images(bare_run: Path, grains: Path, tmp_path: Path) -> None:
    drawn = atsnet("grains", tmp_path / "more", "--train", 15, "--good", 0, "--defects", 0, "--size", 64, "--seed", 9)
    assert drawn.exit_code == 0
    more = ("--good", tmp_path / "more")
    result = atsnet("calibrate", bare_run, grains, *more, "--false-reject-rate", 0.1, "--review-rate", 0.3)
    assert result.exit_code == 0
    for text in ("split conformal: rank 19 of 20", "10.00%", "30.00%", "review from"):
        assert text in result.stdout
    assert "cannot promise" not in result.stderr
    again = atsnet("calibrate", bare_run, grains, *more, *more)
    assert again.exit_code == 4
    assert "each image may count once" in again.stderr


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (("--false-reject-rate", 1.5), "target_false_reject_rate"),
        (("--review-rate", 0.005), "target_review_rate = 0.005 must be above target_false_reject_rate = 0.01"),
    ],
)
def test_rates_that_make_no_sense(rates: tuple[object, ...], message: str, bare_run: Path, grains: Path) -> None:
    result = atsnet("calibrate", bare_run, grains, *rates)
    assert result.exit_code == 4
    assert message in result.stderr


def test_evaluating_before_calibrating_has_no_threshold(bare_run: Path, grains: Path) -> None:
    result = atsnet("evaluate", bare_run, grains)
    assert result.exit_code == 0
    assert "no threshold yet" in result.stdout


def test_exporting_before_calibrating(bare_run: Path, grains: Path, tmp_path: Path) -> None:
    result = atsnet("export", bare_run, grains, *NAMES, "--weights", tmp_path / "weights")
    assert result.exit_code == 4
    assert f"atsnet calibrate {bare_run} {grains}" in result.stderr
    assert not (tmp_path / "weights").exists()


def test_figures_of_other_thresholds_are_not_exported(
    bare_run: Path, evaluated: Path, grains: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated / "evaluation", bare_run / "evaluation")
    assert atsnet("calibrate", bare_run, grains, "--false-reject-rate", 0.2).exit_code == 0
    result = atsnet("export", bare_run, grains, *NAMES, "--weights", tmp_path / "weights")
    assert result.exit_code == 4
    assert f"`atsnet evaluate {bare_run} {grains}` again" in result.stderr
    assert not (tmp_path / "weights").exists()


def test_a_self_test_that_sees_no_defect_is_warned_of(evaluated: Path, grains: Path, tmp_path: Path) -> None:
    shutil.copytree(grains, tmp_path / "grains")
    shutil.rmtree(tmp_path / "grains" / "ground_truth")
    for folder in (tmp_path / "grains" / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    result = atsnet("export", evaluated, tmp_path / "grains", *NAMES, "--weights", tmp_path / "weights")
    assert result.exit_code == 0, result.stderr
    assert "warning: no golden sample fails" in result.stderr


def test_bundle_names_are_checked_before_the_work(calibrated: Path, grains: Path, tmp_path: Path) -> None:
    names = ("--name", "Tiny Bundle", "--version", "1", "--product", "x", "--weights", tmp_path)
    result = atsnet("export", calibrated, grains, *names)
    assert result.exit_code == 4
    assert "'Tiny Bundle'" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--precision", "fp8"), 2, "no precision 'fp8'; there are: fp32, fp16"),
        (("--tensorrt",), 2, "add --precision fp32,fp16"),
        (("--tensorrt", "--precision", "fp16"), 4, "atsnet[tensorrt]"),
    ],
)
def test_exports_that_cannot_be_made_end_before_the_work(
    calibrated: Path,
    grains: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = atsnet("export", calibrated, grains, *NAMES, *options, "--weights", tmp_path / "weights")
    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "weights").exists()
