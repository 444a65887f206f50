import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from atsnet.calibration import (
    Calibration,
    CalibrationError,
    calibrate,
    calibrate_run,
    load_calibration,
    save_calibration,
)
from atsnet.config import CalibrationConfig, Config
from atsnet.data.layout import file_digests, find_dataset, fingerprint, split_holdout
from atsnet.prediction_limits import promised_interval, tail_interval, upper_limit
from atsnet.quality import Quality
from atsnet.training.run_directory import BackboneSource, DataSource, RunRecord, TrainedRun


def _config(rate: float) -> CalibrationConfig:
    return CalibrationConfig(target_false_reject_rate=rate)


def _scores(count: int, seed: int = 0, sigma: float = 0.3) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, sigma, count))


def test_from_enough_images_on_the_threshold_is_a_conformal_limit() -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1.0, 300))
    calibration = calibrate(scores, scores, _config(0.01))
    assert calibration.score_threshold == 297
    assert calibration.method == "split conformal: rank 297 of 299 normal scores"
    assert calibration.normal_images == 299
    assert calibration.target_false_reject_rate == 0.01
    assert calibration.false_reject_interval == promised_interval(299, 297)
    assert calibration.attainable_rate == 2 / 300
    assert calibration.assumption is None
    assert calibration.warnings == ()


def test_too_few_images_are_said_and_not_hidden() -> None:
    calibration = calibrate(_scores(114), _scores(114), _config(0.01))
    assert calibration.method == "exponential tail of 114 normal scores (split conformal needs 199)"
    assert calibration.assumption == "the largest 11 normal scores fall off exponentially"
    assert calibration.attainable_rate == pytest.approx(2 / 115)
    assert calibration.false_reject_interval == tail_interval(114, 0.01)
    (warning,) = calibration.warnings
    assert "114 normal images cannot promise a false-reject rate of 1.00%" in warning
    assert "without assuming that the largest 11 normal scores fall off exponentially" in warning
    assert "199 are needed, and these can promise 1.74%" in warning


def test_there_is_no_review_band_unless_it_is_asked_for() -> None:
    calibration = calibrate(_scores(400), _scores(400), CalibrationConfig())
    assert calibration.review_score is None
    assert calibration.target_review_rate is None
    assert calibration.review_interval is None


def test_the_review_band_lies_between_two_rates() -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1.0, 400))
    config = CalibrationConfig(target_false_reject_rate=0.01, target_review_rate=0.05)
    calibration = calibrate(scores, scores, config)
    assert calibration.score_threshold == 396
    assert calibration.target_review_rate == 0.05
    assert calibration.review_interval == promised_interval(399, 380)
    assert calibration.review_score is not None
    # As the service compares: from the review score on, up to the threshold.
    calibrated = scores / calibration.score_threshold
    review = scores[(calibrated >= calibration.review_score) & (calibrated <= 1)]
    assert sorted(review) == list(range(381, 397))


def test_the_share_that_does_not_pass_keeps_its_promise() -> None:
    config = CalibrationConfig(target_false_reject_rate=0.02, target_review_rate=0.1)
    not_passed, covered = [], 0
    for seed in range(200):
        calibration = calibrate(_scores(150, seed), np.zeros(150), config)
        assert calibration.review_score is not None
        assert calibration.review_interval is not None
        rate = float(stats.norm.sf(np.log(calibration.review_score * calibration.score_threshold) / 0.3))
        low, high = calibration.review_interval
        covered += low <= rate <= high
        not_passed.append(rate)
    assert 0.09 < np.mean(not_passed) < 0.105
    assert 180 <= covered <= 199


def test_a_band_without_room_is_said() -> None:
    scores = np.full(100, 0.5)
    calibration = calibrate(scores, scores, CalibrationConfig(target_review_rate=0.05))
    assert calibration.review_score is None
    assert calibration.review_interval is None
    assert any("there is no review band" in warning for warning in calibration.warnings)


def test_too_few_images_for_the_review_rate_are_said() -> None:
    calibration = calibrate(_scores(30), _scores(30), CalibrationConfig(target_review_rate=0.05))
    assert calibration.review_score is not None
    assert any("cannot promise a review rate of 5.00%" in warning for warning in calibration.warnings)


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
    scores = np.arange(1.0, 200.0)
    calibration = calibrate(scores, scores, _config(0.01))
    assert calibration.region_share == pytest.approx(1 / 199)
    assert calibration.median_score == 100


def test_a_part_far_from_the_others_is_named() -> None:
    scores = _scores(120)
    scores[17] = 40.0
    names = [f"train/good/{index}.png" for index in range(120)]
    warnings = calibrate(scores, scores, _config(0.05), names).warnings
    assert warnings == ("1 of the normal images far above the others; see whether good: train/good/17.png",)
    assert "number 18" in calibrate(scores, scores, _config(0.05)).warnings[0]


def test_a_threshold_that_lets_everything_pass_is_pointed_out() -> None:
    warnings = calibrate([0.1, 1.0, 3.0], np.zeros(3), _config(0.01)).warnings
    assert any("29 times the median normal score" in warning for warning in warnings)


def test_equal_scores_and_some_zeros_can_be_calibrated() -> None:
    assert calibrate(np.full(10, 0.5), np.full(10, 0.5), _config(0.01)).score_threshold == pytest.approx(0.5)
    some = calibrate([0.0, 0.0, 0.4, 0.5, 0.6], np.zeros(5), _config(0.01)).score_threshold
    assert 0.6 < some < 4


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        ([], 0.01, "too few normal images for a threshold: 0 held out or given, 3 the least; .* --good DIR"),
        ([1.0, 2.0], 0.01, "2 held out or given, 3 the least"),
        ([1.0, 2.0, float("nan")], 0.01, "finite and not negative"),
        ([1.0, 2.0, float("inf")], 0.01, "finite and not negative"),
        ([1.0, 2.0, -0.1], 0.01, "finite and not negative"),
        ([0.0, 0.0, 0.0], 0.01, "not trained"),
        ([0.0, 0.0, 0.0, 1.0], 0.5, "too many normal images score 0"),
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
        "target_review_rate": None,
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
    # In eval mode.
    assert calibration.score_threshold == pytest.approx(upper_limit(np.array(held_out) / 255, 0.1).value)
    assert calibration.median_score == pytest.approx((held_out[4] + held_out[5]) / 2 / 255)
    assert load_calibration(run.directory) == calibration
    assert isinstance(calibration, Calibration)


def test_images_added_since_do_not_matter_and_the_folder_may_move(run: TrainedRun, root: Path) -> None:
    before = calibrate_run(run, root)
    assert cv2.imwrite(str(root / "new.png"), np.full((64, 64), 255, np.uint8))
    assert calibrate_run(run, root.rename(root.with_name("moved"))) == before


def test_other_rates_need_no_training(run: TrainedRun, root: Path) -> None:
    stricter = calibrate_run(run, root, config=CalibrationConfig(target_false_reject_rate=0.02, target_review_rate=0.3))
    assert stricter.score_threshold > calibrate_run(run, root).score_threshold
    assert (stricter.target_false_reject_rate, stricter.target_review_rate) == (0.02, 0.3)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of 15 further good images, all pixels of number i of the level 150 + i."""
    folder = tmp_path / "further"
    folder.mkdir()
    for index in range(15):
        assert cv2.imwrite(str(folder / f"{index:02d}.png"), np.full((64, 64), 150 + index, np.uint8))
    return folder


def test_further_good_images_calibrate_with_the_held_out_ones(run: TrainedRun, root: Path, elsewhere: Path) -> None:
    held_out = sorted(100 + int(name[:2]) for name in run.record.data.holdout_images)
    calibration = calibrate_run(run, root, further=find_dataset(elsewhere).train)
    assert calibration.normal_images == 25
    assert calibration.median_score == pytest.approx((150 + 2) / 255)
    assert calibration.method == "split conformal: rank 24 of 25 normal scores"
    assert calibration.score_threshold == pytest.approx(163 / 255)
    assert max(held_out) < 150
    assert calibration.further_images[str(elsewhere / "03.png")] == file_digests(find_dataset(elsewhere).train)[3]
    assert load_calibration(run.directory) == calibration


def test_further_images_of_another_product_are_pointed_out(run: TrainedRun, root: Path, elsewhere: Path) -> None:
    held_out = np.median([100 + int(name[:2]) for name in run.record.data.holdout_images]) / 255
    (warning,) = calibrate_run(run, root, further=find_dataset(elsewhere).train).warnings
    assert f"score unlike those held out, medians {157 / 255:.4g} and {held_out:.4g}: see whether" in warning
    alike = elsewhere.with_name("alike")
    alike.mkdir()
    for level in range(100, 120):
        assert cv2.imwrite(str(alike / f"{level}.png"), np.full((64, 64), level, np.uint8)[:, :60])
    assert calibrate_run(run, root, further=find_dataset(alike).train).warnings == ()


def test_a_calibration_without_names_of_further_images_can_be_read(tmp_path: Path) -> None:
    calibration = calibrate(_scores(200), _scores(200), _config(0.01))
    (tmp_path / "calibration.json").write_text(calibration.model_dump_json(exclude={"further_images"}))
    assert load_calibration(tmp_path) == calibration


def test_an_image_counts_once(run: TrainedRun, root: Path, elsewhere: Path) -> None:
    further = find_dataset(elsewhere).train
    with pytest.raises(CalibrationError, match=r"(?s)1 file .* given twice.*03\.png"):
        calibrate_run(run, root, further=[*further, further[3]])
    for known in (run.record.data.train_images[1], run.record.data.holdout_images[1]):
        (elsewhere / "copy.png").write_bytes((root / known).read_bytes())
        with pytest.raises(CalibrationError, match=r"copy\.png"):
            calibrate_run(run, root, further=find_dataset(elsewhere).train)
    assert load_calibration(run.directory) is None


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


def test_enough_normal_images_say_what_is_normal(run: TrainedRun, root: Path, elsewhere: Path) -> None:
    """Levels 100 to 119 and 150 to 164; the score is the level over 255."""
    calibration = calibrate_run(run, root, further=find_dataset(elsewhere).train)
    reference, gates = calibration.reference, calibration.gates
    assert reference is not None
    assert gates is not None
    assert reference.images == 25
    # Three bins of eight or nine of 26 gaps each: the edges are the 8th and the 17th value of 10 and 15 levels.
    levels = sorted([100 + int(name[:2]) for name in run.record.data.holdout_images] + [*range(150, 165)])
    assert reference.brightness.values == (levels[7], levels[16])
    assert reference.score.values == pytest.approx(
        [levels[rank] / 255 / calibration.score_threshold for rank in (7, 16)]
    )
    assert gates.check(Quality(brightness=130, contrast=0, sharpness=0, clipped=0)) is None
    failure = gates.check(Quality(brightness=130, contrast=40, sharpness=0, clipped=0))
    assert failure is not None
    assert failure.name == "contrast"
    assert load_calibration(run.directory) == calibration


def test_too_few_normal_images_to_say_what_is_normal(run: TrainedRun, root: Path) -> None:
    calibration = calibrate_run(run, root)
    assert (calibration.reference, calibration.gates) == (None, None)
    assert calibration.warnings[-1].startswith("10 normal images cannot tell what normal images are like")


def test_a_calibration_of_an_older_version_can_be_read(run: TrainedRun, root: Path, elsewhere: Path) -> None:
    calibration = calibrate_run(run, root, further=find_dataset(elsewhere).train)
    path = run.directory / "calibration.json"
    path.write_text(calibration.model_dump_json(exclude={"reference", "gates"}))
    assert load_calibration(run.directory) == calibration.model_copy(update={"reference": None, "gates": None})
