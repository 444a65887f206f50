from pathlib import Path

import cv2
import numpy as np
import pytest

from atsnet.data.frames import load_frames
from atsnet.data.layout import Sample
from atsnet.evaluation.assessment import TestSet, Thresholds
from atsnet.evaluation.overlays import (
    Scene,
    draw_overlays,
    typical,
    unit_without_calibration,
    worst_false_rejects,
    worst_misses,
)
from atsnet.imaging import InputGeometry

GEOMETRY = InputGeometry(height=64, width=64, color="mono")


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture.astype(int)


def _scene(
    folder: Path, maps: np.ndarray, *, unit: float = 1.0, masks: bool = True, labels: list[str] | None = None
) -> Scene:
    """Black parts; all are good ones except the first, unless labels are given."""
    samples, labels = [], labels or ["dent"] + ["good"] * (len(maps) - 1)
    for index, label in enumerate(labels):
        path = folder / f"{index}.png"
        assert cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
        samples.append(Sample(path, f"test/x/{index}.png", label))
    frames = load_frames(samples, GEOMETRY)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    known = tuple(mask & (label != "good") if masks or label == "good" else None for label in labels)
    scores = maps.max(axis=(1, 2)).astype(float)
    test_set = TestSet("parts", tuple(samples), frames, known, GEOMETRY)
    return Scene(test_set, scores, maps.astype(np.float32), unit, Thresholds(unit, unit, 0.01))


def _colorfulness(path: Path) -> int:
    """Pixels of strong colour between the legend and the colour bar."""
    picture = _read(path)
    drawn = picture[int(0.15 * len(picture)) : int(0.75 * len(picture))]
    return int((np.ptp(drawn, axis=2) > 60).sum())


def test_heatmaps_share_one_absolute_scale(tmp_path: Path) -> None:
    quiet = np.random.default_rng(0).random((3, 16, 16)) * 0.05
    loud = quiet.copy()
    loud[1, 4:12, 4:12] = 1.8
    draw_overlays(tmp_path / "quiet.png", _scene(tmp_path, quiet, masks=False), [0, 1, 2])
    draw_overlays(tmp_path / "loud.png", _scene(tmp_path, loud, masks=False), [0, 1, 2])
    # Only the coloured letters of a wrong verdict are left in the first one: noise below the threshold is not lit up.
    assert _colorfulness(tmp_path / "loud.png") > _colorfulness(tmp_path / "quiet.png") + 2000


def test_the_brightest_colour_is_for_twice_the_threshold_only(tmp_path: Path) -> None:
    yellow = []
    for level in (1.1, 2.0):
        maps = np.zeros((1, 16, 16))
        maps[0, 4:12, 4:12] = level
        draw_overlays(tmp_path / "one.png", _scene(tmp_path, maps, masks=False), [0])
        blue, green, red = np.moveaxis(_read(tmp_path / "one.png")[60:230], 2, 0)
        yellow.append(int(((red > 140) & (green > 140) & (blue < green - 25) & (red > green - 15)).sum()))
    assert yellow[1] > yellow[0] + 500


def test_the_unit_sets_the_scale(tmp_path: Path) -> None:
    maps = np.zeros((3, 16, 16))
    maps[1, 4:12, 4:12] = 1.8
    draw_overlays(tmp_path / "one.png", _scene(tmp_path, maps), [0, 1, 2])
    draw_overlays(tmp_path / "same.png", _scene(tmp_path, 50 * maps, unit=50), [0, 1, 2])
    np.testing.assert_allclose(_read(tmp_path / "one.png"), _read(tmp_path / "same.png"), atol=2)


def test_a_known_mask_is_outlined(tmp_path: Path) -> None:
    maps = np.zeros((2, 16, 16))
    draw_overlays(tmp_path / "with.png", _scene(tmp_path, maps), [0])
    draw_overlays(tmp_path / "without.png", _scene(tmp_path, maps, masks=False), [0])
    cyan = [
        int(((picture[:, :, :2] > 200).all(axis=2) & (picture[:, :, 2] < 80)).sum())
        for picture in (_read(tmp_path / "with.png"), _read(tmp_path / "without.png"))
    ]
    assert cyan[0] > cyan[1] + 100


def test_a_map_above_the_threshold_everywhere_is_outlined_along_the_edge(tmp_path: Path) -> None:
    for name, level in (("below", 0.9), ("above", 1.1)):
        draw_overlays(tmp_path / f"{name}.png", _scene(tmp_path, np.full((1, 16, 16), level), masks=False), [0])
    lime = [
        int(((picture[:, :, 1] > 200) & (picture[:, :, 0] < 80) & (picture[:, :, 2] < 80)).sum())
        for picture in (_read(tmp_path / "below.png"), _read(tmp_path / "above.png"))
    ]
    assert lime[1] > lime[0] + 100


def test_worst_first(tmp_path: Path) -> None:
    labels = ["good", "dent", "dent", "good", "stain", "good"]
    maps = np.array([0.1, 0.9, 0.2, 0.8, 0.4, 0.3])[:, None, None] * np.ones((1, 16, 16))
    scene = _scene(tmp_path, maps, labels=labels)
    assert worst_misses(scene) == [2, 4, 1]
    assert worst_false_rejects(scene) == [3, 5, 0]
    # The median of each label, good first; the lower one of two.
    assert typical(scene) == [5, 2, 4]


def test_no_more_than_a_dozen_are_shown(tmp_path: Path) -> None:
    scene = _scene(tmp_path, np.random.default_rng(0).random((30, 16, 16)))
    shown = worst_false_rejects(scene)
    assert len(shown) == 12
    draw_overlays(tmp_path / "many.png", scene, shown)
    draw_overlays(tmp_path / "few.png", scene, worst_misses(scene))
    assert _read(tmp_path / "many.png").shape[0] > _read(tmp_path / "few.png").shape[0]


def test_the_unit_without_calibration_is_from_good_images() -> None:
    maps = np.zeros((101, 4, 4), np.float32)
    maps[:100, 0, 0] = np.arange(100)
    maps[100, 0, 0] = 1e6
    good = np.arange(101) < 100
    assert unit_without_calibration(maps, good) == pytest.approx(98.01)
    assert unit_without_calibration(maps[100:], np.array([False])) == 1e6
    assert unit_without_calibration(np.zeros((2, 4, 4), np.float32), np.array([True, True])) > 0
