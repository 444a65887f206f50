import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atsnet.calibration import (
    MIN_IMAGES,
    Calibration,
    CalibrationError,
    calibrate,
    calibrate_run,
    images_needed,
    load_calibration,
    save_calibration,
)
from atsnet.config import CalibrationConfig, Config
from atsnet.data.layout import find_dataset, fingerprint, split_holdout
from atsnet.training.run_directory import BackboneSource, DataSource, RunRecord, TrainedRun


def _config(rate: float) -> CalibrationConfig:
    return CalibrationConfig(target_false_reject_rate=rate)


def _scores(count: int, seed: int = 0, sigma: float = 0.3) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, sigma, count))


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [
        (99, 0.01, 99),
        (198, 0.01, 198),
        (199, 0.01, 198),
        (299, 0.01, 297),
        (1000, 0.01, 991),
        (19, 0.05, 19),
        (39, 0.05, 38),
        (9, 0.1, 9),
        (3, 0.25, 3),
    ],
)
def test_the_conformal_rank(count: int, rate: float, rank: int) -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1.0, count + 1))
    calibration = calibrate(scores, scores, _config(rate))
    assert calibration.score_threshold == rank
    assert calibration.method == f"split conformal: rank {rank} of {count} normal scores"
    assert calibration.normal_images == count
    assert calibration.target_false_reject_rate == rate
    # The promise: a new score, equally likely in any place among the others, is above rank k with 1 - k / (n + 1).
    assert 1 - rank / (count + 1) <= rate + 1e-12
    assert 1 - (rank - 1) / (count + 1) > rate


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.001, 999), (0.03, 33), (0.3, 3)])
def test_images_needed_is_where_the_method_changes(rate: float, needed: int) -> None:
    assert images_needed(rate) == needed
    assert calibrate(_scores(needed), _scores(needed), _config(rate)).method.startswith("split conformal")
    if needed > MIN_IMAGES:
        few = calibrate(_scores(needed - 1), _scores(needed - 1), _config(rate))
        assert few.method.startswith("log-normal prediction limit")


def test_the_largest_score_as_threshold_is_pointed_out() -> None:
    (warning,) = calibrate(_scores(150), _scores(150), _config(0.01)).warnings
    assert "largest of 150" in warning
    assert "from 199 images" in warning
    assert calibrate(_scores(199), _scores(199), _config(0.01)).warnings == ()


def test_too_few_images_are_said_and_not_hidden() -> None:
    calibration = calibrate(_scores(30), _scores(30), _config(0.01))
    assert calibration.method == "log-normal prediction limit of 30 normal scores (split conformal needs 99)"
    assert calibration.attainable_rate == pytest.approx(1 / 31)
    assert calibration.false_reject_interval is None
    (warning,) = calibration.warnings
    assert "30 normal images cannot promise a false-reject rate of 1.00%" in warning
    assert "99 are needed, and these can promise 3.23%" in warning


def test_the_log_normal_limit_by_hand() -> None:
    """Log-scores -1, 0, 1: mean 0, standard deviation 1, and t(0.9, 2 degrees of freedom) = 1.885618."""
    calibration = calibrate(np.exp([-1.0, 0.0, 1.0]), np.zeros(3), _config(0.1))
    assert calibration.score_threshold == pytest.approx(np.exp(1.885618 * np.sqrt(4 / 3)), rel=1e-6)


@pytest.mark.parametrize(("count", "rate"), [(10, 0.05), (30, 0.01), (99, 0.01), (250, 0.01), (60, 0.1)])
def test_the_promised_false_reject_rate_is_kept(count: int, rate: float) -> None:
    """Mean rate over many calibration sets, known exactly for each threshold of a known distribution."""
    rates = []
    fresh = np.sort(_scores(200_000, seed=99))
    for seed in range(400):
        threshold = calibrate(_scores(count, seed), np.zeros(count), _config(rate)).score_threshold
        rates.append(1 - np.searchsorted(fresh, threshold, side="right") / len(fresh))
    margin = 4 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) < rate + margin
    assert np.mean(rates) > 0.5 * rate - margin


def test_the_interval_covers_the_true_rate() -> None:
    covered = 0
    for seed in range(200):
        calibration = calibrate(_scores(200, seed), np.zeros(200), _config(0.05))
        rate = 1 - np.mean(_scores(50_000, seed=10_000) <= calibration.score_threshold)
        assert calibration.false_reject_interval is not None
        low, high = calibration.false_reject_interval
        covered += low <= rate <= high
    assert 180 <= covered <= 199


def test_a_common_factor_scales_the_thresholds() -> None:
    for count in (20, 120):
        one = calibrate(_scores(count), _scores(count), _config(0.01))
        ten = calibrate(10 * _scores(count), 10 * _scores(count), _config(0.01))
        assert ten.score_threshold == pytest.approx(10 * one.score_threshold)
        assert ten.map_threshold == pytest.approx(10 * one.map_threshold)


def test_a_failing_image_has_a_map_position_above_the_map_threshold() -> None:
    maps = np.random.default_rng(0).gamma(2, 1, (300, 400))
    top = np.sort(maps, axis=1)[:, -4:]
    calibration = calibrate(top.mean(axis=1), top[:, -1], _config(0.2))
    fails = top.mean(axis=1) > calibration.score_threshold
    regions = top[:, -1] >= calibration.map_threshold
    assert 30 < fails.sum() <= 60
    assert regions[fails].all()
    assert calibration.region_share == pytest.approx((regions & ~fails).mean())
    assert 0 < calibration.region_share < 0.5


def test_a_score_at_the_threshold_passes_and_may_show_a_region() -> None:
    scores = np.arange(1.0, 100.0)
    calibration = calibrate(scores, scores, _config(0.01))
    assert calibration.region_share == pytest.approx(1 / 99)
    assert calibration.median_score == 50


def test_a_part_far_from_the_others_is_named() -> None:
    scores = _scores(120)
    scores[17] = 40.0
    names = [f"train/good/{index}.png" for index in range(120)]
    warnings = calibrate(scores, scores, _config(0.05), names).warnings
    assert warnings == ("1 of the normal images far above the others; see whether good: train/good/17.png",)
    assert "number 18" in calibrate(scores, scores, _config(0.05)).warnings[0]


def test_a_threshold_that_lets_everything_pass_is_pointed_out() -> None:
    warnings = calibrate(_scores(3, sigma=1.0), np.zeros(3), _config(0.01)).warnings
    assert any("times the median normal score" in warning for warning in warnings)


def test_equal_scores_and_some_zeros_can_be_calibrated() -> None:
    assert calibrate(np.full(10, 0.5), np.full(10, 0.5), _config(0.01)).score_threshold == pytest.approx(0.5)
    some = calibrate([0.0, 0.0, 0.4, 0.5, 0.6], np.zeros(5), _config(0.01)).score_threshold
    assert 0.6 < some < 2


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        ([], 0.01, "0 held-out normal images are too few"),
        ([1.0, 2.0], 0.01, "2 held-out normal images are too few for a threshold, 3 the least"),
        ([1.0, 2.0, float("nan")], 0.01, "finite and not negative"),
        ([1.0, 2.0, float("inf")], 0.01, "finite and not negative"),
        ([1.0, 2.0, -0.1], 0.01, "finite and not negative"),
        ([0.0, 0.0, 0.0], 0.01, "not trained"),
        ([0.0, 0.0, 0.0, 1.0], 0.5, "too many normal images score 0"),
        ([1e-300, 1e-10, 1e300], 0.001, "spread too widely"),
    ],
)
def test_scores_of_no_use_are_refused(scores: list[float], rate: float, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        calibrate(scores, np.zeros(len(scores)), _config(rate))


def test_every_image_has_one_score_and_one_peak() -> None:
    with pytest.raises(ValueError, match="one each"):
        calibrate([1.0, 2.0, 3.0], [1.0], _config(0.1))


def test_what_is_deployed_is_what_a_manifest_carries() -> None:
    calibration = calibrate(_scores(200), _scores(200), _config(0.01))
    assert calibration.deployed() == {
        "score_threshold": calibration.score_threshold,
        "map_threshold": calibration.map_threshold,
        "review_score": None,
        "target_false_reject_rate": 0.01,
        "normal_images": 200,
        "method": "split conformal: rank 199 of 200 normal scores",
    }


def test_saved_and_loaded(tmp_path: Path) -> None:
    assert load_calibration(tmp_path) is None
    calibration = calibrate(_scores(200), _scores(200), _config(0.01))
    save_calibration(tmp_path, calibration)
    assert load_calibration(tmp_path) == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("content", ["", "{", '{"score_threshold": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(CalibrationError, match=str(path)):
        load_calibration(tmp_path)


def test_an_unknown_key_or_a_threshold_of_zero_is_damage(tmp_path: Path) -> None:
    save_calibration(tmp_path, calibrate(_scores(200), _scores(200), _config(0.01)))
    path = tmp_path / "calibration.json"
    stored = json.loads(path.read_text())
    for change in ({"extra": 1}, {"score_threshold": 0.0}):
        path.write_text(json.dumps(stored | change))
        with pytest.raises(CalibrationError):
            load_calibration(tmp_path)


class _Brightness(nn.Module):
    """The map is the brightness in 0..1, the score its mean; ten times that in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        maps = nn.functional.avg_pool2d(frames[..., 0].float() / 255, 4) * (10 if self.training else 1)
        return maps.mean(dim=(1, 2)), maps


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of 20 good images; all pixels of number i have the level 100 + i."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for index in range(20):
        assert cv2.imwrite(str(folder / f"{index:02d}.png"), np.full((64, 64), 100 + index, np.uint8))
    return folder


@pytest.fixture
def run(tmp_path: Path, root: Path) -> TrainedRun:
    dataset = find_dataset(root)
    train, holdout = split_holdout(dataset.train, 0.5, seed=0)
    record = RunRecord(
        atsnet_version="0",
        torch_version="0",
        backbone=BackboneSource(name="none", sha256="", licence="", origin=""),
        data=DataSource(
            layout="folder",
            root=root.name,
            train_images=tuple(sample.name for sample in train),
            holdout_images=tuple(sample.name for sample in holdout),
            sha256=fingerprint([*train, *holdout]),
        ),
        losses={},
        seconds=0.0,
    )
    config = Config.model_validate(
        {
            "input": {"height": 64, "width": 64, "color": "mono"},
            "network": {"window": 4, "grid": 4},
            "calibration": {"target_false_reject_rate": 0.1},
        }
    )
    directory = tmp_path / "run"
    directory.mkdir()
    network = _Brightness().train()
    return TrainedRun(directory, network, config, record)  # type: ignore[arg-type]


def test_a_run_is_calibrated_on_its_held_out_images_only(run: TrainedRun, root: Path) -> None:
    held_out = sorted(100 + int(name[:2]) for name in run.record.data.holdout_images)
    calibration = calibrate_run(run, root, batch_size=3)
    assert calibration.normal_images == 10
    # Rank 10 of 10 at 10 %, and in eval mode.
    assert calibration.score_threshold == pytest.approx(held_out[-1] / 255)
    assert calibration.median_score == pytest.approx((held_out[4] + held_out[5]) / 2 / 255)
    assert load_calibration(run.directory) == calibration
    assert isinstance(calibration, Calibration)


def test_images_added_since_do_not_matter_and_the_folder_may_move(run: TrainedRun, root: Path) -> None:
    before = calibrate_run(run, root)
    assert cv2.imwrite(str(root / "new.png"), np.full((64, 64), 255, np.uint8))
    assert calibrate_run(run, root.rename(root.with_name("moved"))) == before


def test_images_that_are_gone_are_named(run: TrainedRun, root: Path) -> None:
    name = run.record.data.holdout_images[2]
    (root / name).unlink()
    with pytest.raises(CalibrationError, match=r"1 file missing:\s+" + name):
        calibrate_run(run, root)
    assert load_calibration(run.directory) is None


@pytest.mark.parametrize("kind", ["holdout_images", "train_images"])
def test_altered_images_are_refused(run: TrainedRun, root: Path, kind: str) -> None:
    name = getattr(run.record.data, kind)[0]
    assert cv2.imwrite(str(root / name), np.zeros((64, 64), np.uint8))
    with pytest.raises(CalibrationError, match="altered"):
        calibrate_run(run, root)
    assert load_calibration(run.directory) is None
