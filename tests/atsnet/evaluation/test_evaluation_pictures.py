from pathlib import Path

import cv2
import numpy as np
import pytest

from atsnet.data.frames import load_frames
from atsnet.data.layout import Sample
from atsnet.evaluation.pictures import Scene, draw_examples, draw_roc, draw_scores, unit_without_calibration
from atsnet.imaging import InputGeometry

GEOMETRY = InputGeometry(height=64, width=64, color="mono")


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


def _scene(folder: Path, maps: np.ndarray, *, unit: float = 1.0) -> Scene:
    """Black parts; all are good ones except the first."""
    samples = []
    for index in range(len(maps)):
        path = folder / f"{index}.png"
        assert cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
        samples.append(Sample(path, f"test/x/{index}.png", "good" if index else "dent"))
    frames = load_frames(samples, GEOMETRY)
    masks = [np.zeros((64, 64), bool)] * len(maps)
    scores = maps.max(axis=(1, 2)).astype(float)
    return Scene(samples, scores, maps.astype(np.float32), frames, masks, GEOMETRY, unit, unit)


def _colorfulness(path: Path) -> int:
    """Pixels of strong colour above the colour bars."""
    picture = _read(path).astype(int)
    drawn = picture[: int(0.75 * len(picture))]
    return int((np.ptp(drawn, axis=2) > 60).sum())


def test_heatmaps_share_one_absolute_scale(tmp_path: Path) -> None:
    quiet = np.random.default_rng(0).random((3, 16, 16)) * 0.05
    loud = quiet.copy()
    loud[1, 4:12, 4:12] = 1.8
    draw_examples(tmp_path / "quiet.png", _scene(tmp_path, quiet))
    draw_examples(tmp_path / "loud.png", _scene(tmp_path, loud))
    # Only the verdicts' coloured letters are left in the first one: noise far below the threshold is not lit up.
    assert _colorfulness(tmp_path / "loud.png") > _colorfulness(tmp_path / "quiet.png") + 2000


def test_the_unit_sets_the_scale(tmp_path: Path) -> None:
    maps = np.zeros((3, 16, 16))
    maps[1, 4:12, 4:12] = 1.8
    draw_examples(tmp_path / "one.png", _scene(tmp_path, maps))
    draw_examples(tmp_path / "same.png", _scene(tmp_path, 50 * maps, unit=50))
    np.testing.assert_allclose(_read(tmp_path / "one.png").astype(int), _read(tmp_path / "same.png"), atol=2)


def test_more_images_than_rows(tmp_path: Path) -> None:
    draw_examples(tmp_path / "many.png", _scene(tmp_path, np.random.default_rng(0).random((30, 16, 16))))
    draw_examples(tmp_path / "few.png", _scene(tmp_path, np.random.default_rng(0).random((2, 16, 16))))
    assert _read(tmp_path / "many.png").shape[0] > _read(tmp_path / "few.png").shape[0]
    assert _read(tmp_path / "many.png").shape[0] < 2000


def test_the_working_point_is_in_the_roc_curve(tmp_path: Path) -> None:
    defective, scores = np.array([False, False, True, True]), np.array([0.1, 0.6, 0.5, 0.9])
    draw_roc(tmp_path / "without.png", defective, scores, None)
    draw_roc(tmp_path / "with.png", defective, scores, 0.55)
    red = [
        int(((picture[:, :, 2] > 180) & (picture[:, :, :2] < 80).all(axis=2)).sum())
        for picture in (_read(tmp_path / "without.png"), _read(tmp_path / "with.png"))
    ]
    assert red[0] == 0
    assert red[1] > 20


def test_a_roc_curve_that_is_not_defined_says_so(tmp_path: Path) -> None:
    draw_roc(tmp_path / "roc.png", np.array([False, False]), np.array([0.1, 0.2]), 0.15)
    draw_roc(tmp_path / "other.png", np.array([True, True]), np.array([0.9, 0.8]), None)
    np.testing.assert_array_equal(_read(tmp_path / "roc.png"), _read(tmp_path / "other.png"))


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0, 0.0], [1e-6, 1.0, 1e6], [0.5, 0.5, 0.5], [0.0, 3.0, 9.0], [3.0, 3.0, 3.0000002]]
)
@pytest.mark.parametrize("threshold", [None, 0.7])
def test_any_scores_have_a_histogram(tmp_path: Path, scores: list[float], threshold: float | None) -> None:
    draw_scores(tmp_path / "scores.png", ["good", "_odd $x^", "good"], np.array(scores), threshold)
    picture = _read(tmp_path / "scores.png").astype(int)
    green = (picture[:, :, 1] > picture[:, :, 2] + 40) & (picture[:, :, 1] > picture[:, :, 0] + 40)
    red = (picture[:, :, 2] > picture[:, :, 1] + 40) & (picture[:, :, 2] > picture[:, :, 0] + 40)
    assert green.sum() > 100
    assert red.sum() > 100


def test_the_unit_without_calibration_is_from_good_images() -> None:
    maps = np.zeros((101, 4, 4), np.float32)
    maps[:100, 0, 0] = np.arange(100)
    maps[100, 0, 0] = 1e6
    good = np.arange(101) < 100
    assert unit_without_calibration(maps, good) == pytest.approx(98.01)
    assert unit_without_calibration(maps[100:], np.array([False])) == 1e6
    assert unit_without_calibration(np.zeros((2, 4, 4), np.float32), np.array([True, True])) > 0
