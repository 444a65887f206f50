from pathlib import Path

import cv2
import numpy as np
import pytest

from atsnet.data.frames import FrameSet
from atsnet.data.layout import Sample
from atsnet.evaluation.assessment import EvaluationReport, TestSet, Thresholds, assess, collect_pixels
from atsnet.evaluation.charts import draw_pro, draw_roc, draw_scores
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import InputGeometry, Placement, Roi

SIDE = 64
GEOMETRY = InputGeometry(height=SIDE, width=SIDE, color="mono")


def _test_set(labels: list[str], masks: list[np.ndarray | None] | None = None) -> TestSet:
    samples = tuple(Sample(Path(f"{index}.png"), f"test/{index}.png", label) for index, label in enumerate(labels))
    placement = Placement(Roi(x=0, y=0, width=SIDE, height=SIDE), 0, 0, SIDE, SIDE)
    pixels = np.zeros((len(labels), *GEOMETRY.frame_shape), np.uint8)
    frames = FrameSet(pixels, (placement,) * len(labels), ((SIDE, SIDE),) * len(labels))
    return TestSet("parts", samples, frames, tuple(masks or [None] * len(labels)), GEOMETRY)


def _assess(test_set: TestSet, scores: list[float], thresholds: Thresholds | None = None) -> EvaluationReport:
    maps = np.zeros((len(scores), 16, 16), np.float32)
    return assess(test_set, RawScores(np.array(scores, np.float32), maps), thresholds)


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture.astype(int)


def _near(picture: np.ndarray, color: str) -> int:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return int((np.abs(picture - (blue, green, red)).max(axis=2) < 40).sum())


def test_the_working_point_is_in_the_roc_curve(tmp_path: Path) -> None:
    test_set, scores = _test_set(["good", "good", "dent", "dent"]), [0.1, 0.6, 0.5, 0.9]
    drawn = []
    for thresholds in (None, Thresholds(0.55, 0.55, 0.01), Thresholds(0.55, 0.55, 0.01, review_from=0.3)):
        draw_roc(tmp_path / "roc.png", test_set, np.array(scores), _assess(test_set, scores, thresholds))
        drawn.append(_near(_read(tmp_path / "roc.png"), "#D55E00"))
    # None, one point with its intervals, and a second one for the review.
    assert drawn[0] < 20
    assert drawn[1] > drawn[0] + 100
    assert drawn[2] > drawn[1] + 100


def test_a_roc_curve_that_is_not_defined_says_so(tmp_path: Path) -> None:
    pictures = []
    for labels in (["good", "good"], ["dent", "dent"]):
        test_set, scores = _test_set(labels), [0.1, 0.2]
        draw_roc(
            tmp_path / "roc.png", test_set, np.array(scores), _assess(test_set, scores, Thresholds(0.1, 0.1, 0.01))
        )
        pictures.append(_read(tmp_path / "roc.png"))
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].std() > 5


def test_a_better_map_fills_more_of_the_pro_chart(tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[16:32, 16:32] = True
    test_set = _test_set(["dent", "good"], [mask, ~mask & mask])
    noise = np.random.default_rng(0).random((2, SIDE, SIDE)).astype(np.float32)
    heights = []
    for strength in (0.0, 0.9):
        maps = noise + strength * np.stack([mask, ~mask & mask])
        raw = RawScores(maps.max(axis=(1, 2)), maps.astype(np.float32))
        pixels = collect_pixels(test_set, raw.maps)
        draw_pro(tmp_path / "pro.png", pixels, assess(test_set, raw, pixels=pixels))
        dark_rows = np.nonzero((_read(tmp_path / "pro.png")[45:712, 100:300] < 60).all(axis=2))[0]
        heights.append(dark_rows.mean())
    assert heights[1] < heights[0] - 50


def test_a_pro_curve_that_is_not_defined_says_so(tmp_path: Path) -> None:
    test_set = _test_set(["good", "dent"])
    report = _assess(test_set, [0.1, 0.2])
    draw_pro(tmp_path / "pro.png", collect_pixels(test_set, np.zeros((2, 16, 16), np.float32)), report)
    assert report.aupro is None
    assert (_read(tmp_path / "pro.png")[300:450, 200:600] < 100).sum() > 500


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0, 0.0], [1e-6, 1.0, 1e6], [0.5, 0.5, 0.5], [0.0, 3.0, 9.0], [3.0, 3.0, 3.0000002]]
)
@pytest.mark.parametrize("threshold", [None, 0.7])
def test_any_scores_have_a_histogram(tmp_path: Path, scores: list[float], threshold: float | None) -> None:
    labels = ["good", "_odd $x^", "good"]
    thresholds = None if threshold is None else Thresholds(threshold, threshold, 0.01)
    decisions = _assess(_test_set(labels), scores, thresholds).decisions
    draw_scores(tmp_path / "scores.png", labels, np.array(scores), decisions)
    picture = _read(tmp_path / "scores.png")
    assert _near(picture, "#0072B2") > 100
    assert _near(picture, "#D55E00") > 100
