import math

import numpy as np
import pytest

from atsnet.imaging import Float32Array, InputGeometry, Placement, Roi, map_to_image, to_frame
from service.recipes import Recipe
from service.reply import VerdictWord
from service.verdict import MAX_REGIONS, NotFiniteError, find_regions, judge

GEOMETRY = InputGeometry(height=256, width=256, color="mono")


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "version": 1, "bundle": "b/1", **changes})


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [(0.0, "pass"), (-3.0, "pass"), (3.9999, "pass"), (4.0, "pass"), (math.nextafter(4.0, 5.0), "fail"), (400, "fail")],
)
def test_fails_above_the_threshold(raw: float, verdict: VerdictWord) -> None:
    judgement = judge(raw, 4.0, recipe())
    assert judgement.verdict == verdict
    assert judgement.score == raw / 4


@pytest.mark.parametrize(("raw", "verdict"), [(3.19, "pass"), (3.2, "review"), (4.8, "review"), (4.81, "fail")])
def test_review_lies_between(raw: float, verdict: VerdictWord) -> None:
    assert judge(raw, 4.0, recipe(threshold=1.2, review_from=0.8)).verdict == verdict


@pytest.mark.parametrize("raw", [math.nan, math.inf, -math.inf])
def test_no_verdict_of_what_is_not_finite(raw: float) -> None:
    with pytest.raises(NotFiniteError):
        judge(raw, 4.0, recipe())
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[3, 4] = raw
    with pytest.raises(NotFiniteError):
        find_regions(anomaly_map, placement_of(256, 256), GEOMETRY)


def test_review_above_the_threshold_is_no_recipe() -> None:
    with pytest.raises(ValueError, match="above the threshold"):
        recipe(review_from=1.5)


def placement_of(height: int, width: int, roi: Roi | None = None) -> Placement:
    return to_frame(np.zeros((height, width), np.uint8), GEOMETRY, roi).placement


def spots(*cells: tuple[int, int, float]) -> Float32Array:
    anomaly_map = np.full((64, 64), 0.3, np.float32)
    for row, column, value in cells:
        anomaly_map[row : row + 3, column : column + 3] = value
    return anomaly_map


@pytest.mark.parametrize(
    ("height", "width", "roi"),
    [
        (256, 256, None),
        (1000, 2000, None),
        (100, 60, None),
        (480, 640, Roi(x=100, y=50, width=300, height=200)),
    ],
)
def test_regions_are_those_of_the_map_at_the_image_s_size(height: int, width: int, roi: Roi | None) -> None:
    placement = placement_of(height, width, roi)
    anomaly_map = spots((30, 30, 2.0))
    [region] = find_regions(anomaly_map, placement, GEOMETRY)
    rows, columns = (map_to_image(anomaly_map, placement, GEOMETRY, height, width) >= 1).nonzero()
    pixel = max(1.0, placement.roi.width / placement.width, placement.roi.height / placement.height)
    assert region.x == pytest.approx(columns.min(), abs=2 * pixel)
    assert region.y == pytest.approx(rows.min(), abs=2 * pixel)
    assert region.x + region.width == pytest.approx(columns.max() + 1, abs=2 * pixel)
    assert region.y + region.height == pytest.approx(rows.max() + 1, abs=2 * pixel)
    assert region.area == pytest.approx(len(rows), rel=0.2)
    assert region.peak == 2.0


def test_regions_stay_inside_the_image() -> None:
    anomaly_map = np.full((64, 64), 2.0, np.float32)
    [region] = find_regions(anomaly_map, placement_of(333, 517), GEOMETRY)
    assert (region.x, region.y, region.width, region.height) == (0, 0, 517, 333)


def test_padding_is_no_region() -> None:
    # A wide image has its content in the middle rows of the frame; the rest is reflected padding.
    assert find_regions(spots((2, 30, 5.0)), placement_of(64, 256), GEOMETRY) == ()


def test_greatest_peak_first_and_not_too_many() -> None:
    cells = [(row, column, 1.5 + row + column / 100) for row in range(0, 64, 8) for column in range(0, 64, 8)]
    regions = find_regions(spots(*cells), placement_of(256, 256), GEOMETRY)
    peaks = [region.peak for region in regions]
    assert len(peaks) == MAX_REGIONS
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == pytest.approx(max(value for *_, value in cells))


def test_good_map_has_no_regions() -> None:
    assert find_regions(np.full((64, 64), 0.999, np.float32), placement_of(256, 256), GEOMETRY) == ()
