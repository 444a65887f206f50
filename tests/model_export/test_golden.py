from pathlib import Path

import cv2
import numpy as np
import pytest

from atsnet.data.layout import Sample
from atsnet.imaging import InputGeometry
from model_export.bundle import Calibration
from model_export.exporter import Exported
from model_export.golden import (
    GoldenChoice,
    GoldenSampleError,
    check_golden_samples,
    choose_golden_samples,
    record_golden_samples,
)
from model_export.scorers import OnnxScorer

GEOMETRY = InputGeometry(height=64, width=64, color="mono")
CALIBRATION = Calibration(
    score_threshold=100, map_threshold=100, target_false_reject_rate=0.01, normal_images=10, method="none"
)


class Brightness:
    """A frame's score is its mean grey value."""

    description = "brightness"

    def __call__(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = frames[..., 0].mean(axis=(1, 2)).astype(np.float32)
        return scores, np.ones((len(frames), 16, 16), np.float32) * scores[:, None, None]


def pictures(tmp_path: Path, greys: dict[str, list[int]]) -> list[Sample]:
    found = []
    for label, values in greys.items():
        for grey in values:
            path = tmp_path / f"{label.replace(' ', '')}{grey}.png"
            cv2.imwrite(str(path), np.full((70, 90), grey, np.uint8))
            found.append(Sample(path, path.name, label))
    return found


def test_typical_and_rightly_judged_images_are_chosen(tmp_path: Path) -> None:
    found = pictures(tmp_path, {"crack": [90, 150, 160, 250], "good": [10, 40, 50, 120, 60]})
    chosen = choose_golden_samples(found, Brightness(), GEOMETRY, CALIBRATION)
    assert [sample.name for sample in chosen] == ["good40.png", "good50.png", "crack160.png"]


def test_a_defect_that_is_never_found_is_shown_as_it_is(tmp_path: Path) -> None:
    found = pictures(tmp_path, {"crack": [20, 70, 60]})
    assert [s.name for s in choose_golden_samples(found, Brightness(), GEOMETRY, CALIBRATION)] == ["crack70.png"]


def test_images_on_the_threshold_are_not_chosen(tmp_path: Path) -> None:
    found = pictures(tmp_path, {"good": [99, 100, 101]})
    with pytest.raises(GoldenSampleError, match="not close to a threshold"):
        choose_golden_samples(found, Brightness(), GEOMETRY, CALIBRATION)


def test_the_number_of_candidates_is_bounded(tmp_path: Path) -> None:
    found = pictures(tmp_path, {"good": [10, 40, 50]})
    choice = GoldenChoice(good=5, candidates=2)
    assert len(choose_golden_samples(found, Brightness(), GEOMETRY, CALIBRATION, choice)) == 2


def test_names_speak_and_pixels_are_kept(tmp_path: Path) -> None:
    found = pictures(tmp_path, {"good": [40, 41], "Corner Chip": [200]})
    colour = np.random.default_rng(0).integers(0, 60, (30, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "colour.tiff"), colour)
    found.append(Sample(tmp_path / "colour.tiff", "colour.tiff", "good"))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    golden = record_golden_samples(found, bundle, Brightness(), GEOMETRY, CALIBRATION)
    names = ["samples/good_0.png", "samples/good_1.png", "samples/corner_chip_0.png", "samples/good_2.png"]
    assert [sample.image for sample in golden] == names
    assert [(sample.score, sample.verdict, sample.label) for sample in golden[:3]] == [
        (40, "pass", "good"),
        (41, "pass", "good"),
        (200, "fail", "Corner Chip"),
    ]
    np.testing.assert_array_equal(cv2.imread(str(bundle / "samples/good_2.png"), cv2.IMREAD_UNCHANGED), colour)
    stored = np.load(bundle / golden[0].anomaly_map)
    assert stored.dtype == np.float16
    assert stored.shape == (16, 16)


def test_a_sample_on_the_threshold_is_not_recorded(tmp_path: Path) -> None:
    found = pictures(tmp_path, {"good": [100]})
    with pytest.raises(GoldenSampleError, match="too close"):
        record_golden_samples(found, tmp_path, Brightness(), GEOMETRY, CALIBRATION)


def test_the_bundle_repeats_its_golden_samples(exported: Exported) -> None:
    scorer = OnnxScorer(exported.bundle.graph().read_bytes())
    differences = check_golden_samples(exported.bundle, scorer)
    assert differences.keys() == {sample.image for sample in exported.bundle.manifest.golden_samples}
    assert max(differences.values()) < 1e-6


@pytest.mark.parametrize(("score_factor", "map_offset"), [(1.01, 0.0), (1.0, 0.1), (float("nan"), 0.0)])
def test_another_answer_is_noticed(exported: Exported, score_factor: float, map_offset: float) -> None:
    right = OnnxScorer(exported.bundle.graph().read_bytes())

    class Wrong:
        description = "wrong"

        def __call__(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scores, maps = right(frames)
            return scores * np.float32(score_factor), maps + np.float32(map_offset)

    with pytest.raises(GoldenSampleError, match=str(exported.bundle.path)):
        check_golden_samples(exported.bundle, Wrong())
