from pathlib import Path

import numpy as np
import pytest

from atsnet.calibration import calibrate
from atsnet.config import CalibrationConfig
from atsnet.data.frames import FrameSet
from atsnet.data.layout import Sample
from atsnet.evaluation.assessment import EvaluationReport, TestSet, Thresholds, assess, collect_pixels
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import Float32Array, InputGeometry, Placement, Roi

SIDE = 64
GEOMETRY = InputGeometry(height=SIDE, width=SIDE, color="mono")
LABELS = ("good", "good", "good", "dent", "dent", "stain")
SCORES = np.array([0.1, 0.4, 1.2, 0.3, 1.5, 2.0], np.float32)


def _spot(row: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[row : row + 8, 8:16] = True
    return mask


MASKS = (*(np.zeros((SIDE, SIDE), bool),) * 3, _spot(8), _spot(24), None)


@pytest.fixture
def test_set() -> TestSet:
    samples = tuple(Sample(Path(f"{index}.png"), f"test/{index}.png", label) for index, label in enumerate(LABELS))
    placement = Placement(Roi(x=0, y=0, width=SIDE, height=SIDE), 0, 0, SIDE, SIDE)
    pixels = np.zeros((len(LABELS), *GEOMETRY.frame_shape), np.uint8)
    frames = FrameSet(pixels, (placement,) * len(LABELS), ((SIDE, SIDE),) * len(LABELS))
    return TestSet("parts", samples, frames, MASKS, GEOMETRY)


def _maps() -> Float32Array:
    """Maps that show the defects where they are, in noise."""
    noise = np.random.default_rng(0).random((len(LABELS), SIDE, SIDE)).astype(np.float32)
    return noise + np.stack([np.zeros((SIDE, SIDE), np.float32) if mask is None else mask * 0.8 for mask in MASKS])


def test_every_figure_of_a_set_with_every_kind_of_image(test_set: TestSet) -> None:
    maps = _maps()
    report = assess(test_set, RawScores(SCORES, maps.astype(np.float32)), Thresholds(1.0, 1.0, 0.01))
    assert (report.dataset, report.images, report.pixel_images, report.regions) == ("parts", 6, 5, 2)
    assert report.without_mask == ("test/5.png",)
    # Of nine pairs, dent 0.3 is below two good ones.
    assert report.image_auroc == pytest.approx(7 / 9)
    assert (report.image_f1_max, report.image_f1_max_threshold) == (pytest.approx(4 / 5), 1.5)
    decisions = report.decisions
    assert decisions is not None
    assert (decisions.false_rejects, decisions.escapes) == (1, 1)
    assert decisions.false_reject_interval == (pytest.approx(0.0084, abs=1e-4), pytest.approx(0.9057, abs=1e-4))
    truth = np.stack([mask for mask in MASKS if mask is not None])
    taken = maps[:5] >= 1.0
    assert decisions.iou == pytest.approx((taken & truth).sum() / (taken | truth).sum())
    assert decisions.pixel_fpr == pytest.approx(taken[~truth].mean())
    # Both regions are of the same size.
    assert decisions.pro == pytest.approx(taken[truth].mean())
    assert report.pro_at_recall is not None
    assert report.pro_at_recall.pixel_recall == 0.95
    assert report.cost is None
    for better, worse in ((report.aupro, report.aupro_005), (report.pixel_f1_max, report.iou_at_f1_max)):
        assert better is not None
        assert worse is not None
        assert better > worse


def test_figures_of_each_label(test_set: TestSet) -> None:
    report = assess(test_set, RawScores(SCORES, _maps().astype(np.float32)), Thresholds(1.0, 1.0, 0.01))
    good, dent, stain = report.labels
    assert [row.label for row in report.labels] == ["good", "dent", "stain"]
    assert (good.images, good.failed, good.escape_rate, good.image_auroc, good.aupro) == (3, 1, None, None, None)
    assert (dent.images, dent.failed, dent.escape_rate) == (2, 1, 0.5)
    assert dent.image_auroc == pytest.approx(4 / 6)
    assert dent.escape_interval == (pytest.approx(0.0126, abs=1e-4), pytest.approx(0.9874, abs=1e-4))
    # All masks that are known are dents'.
    assert (dent.aupro, dent.aupro_005, dent.pixel_ap) == (report.aupro, report.aupro_005, report.pixel_ap)
    assert (stain.escape_rate, stain.image_auroc, stain.pixel_images, stain.aupro) == (0.0, 1.0, 0, None)


def test_a_review_band(test_set: TestSet) -> None:
    thresholds = Thresholds(1.0, 1.0, 0.01, review_from=0.3)
    decisions = assess(test_set, RawScores(SCORES, _maps().astype(np.float32)), thresholds).decisions
    assert decisions is not None
    assert (decisions.false_rejects, decisions.good_reviewed) == (1, 1)
    # float32 0.3 is a little above 0.3.
    assert (decisions.escapes, decisions.defective_reviewed) == (0, 1)
    assert [thresholds.verdict(score) for score in (0.29, 0.3, 1.0, 1.01)] == ["pass", "review", "review", "fail"]


def test_without_thresholds_nothing_is_decided(test_set: TestSet) -> None:
    report = assess(test_set, RawScores(SCORES, _maps().astype(np.float32)))
    assert report.decisions is None
    assert [(row.failed, row.reviewed, row.escape_interval) for row in report.labels] == [(None, None, None)] * 3
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report


def test_the_thresholds_of_a_calibration() -> None:
    scores = np.linspace(0.1, 1.0, 300)
    calibration = calibrate(scores, scores, CalibrationConfig(target_false_reject_rate=0.01))
    thresholds = Thresholds.of(calibration)
    assert (thresholds.score, thresholds.map_value) == (calibration.score_threshold, calibration.map_threshold)
    assert (thresholds.target_false_reject_rate, thresholds.review_from) == (0.01, None)
    halfway = Thresholds.of(calibration.model_copy(update={"review_score": 0.5}))
    assert halfway.review_from == 0.5 * calibration.score_threshold


def test_pixels_collected_before_are_not_collected_again(test_set: TestSet) -> None:
    raw = RawScores(SCORES, _maps().astype(np.float32))
    pixels, calls = collect_pixels(test_set, raw.maps), []
    report = assess(test_set, raw, pixels=pixels, report=lambda *call: calls.append(call))
    assert calls == []
    assert report == assess(test_set, raw)


def test_scores_of_another_set_are_refused(test_set: TestSet) -> None:
    with pytest.raises(ValueError, match="5 scores and 6 maps for 6 images of parts"):
        assess(test_set, RawScores(SCORES[:5], _maps().astype(np.float32)))
