import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from atsnet.evaluation.metrics import count_decisions, image_auroc, image_roc
from atsnet.evaluation.pixel_metrics import PixelScores

NAN = float("nan")


def _aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float = 0.3) -> float | None:
    pixels = PixelScores()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.add(np.asarray(anomaly_map, np.float32), np.asarray(mask, bool))
    curve = pixels.curve()
    return curve.aupro(limit) if curve else None


def _brute_force(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """The definition, word for word: every threshold, every region, one after the other."""
    regions, normal = [], []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[labels == label] for label in range(1, count + 1)]
        normal.append(anomaly_map[labels == 0])
    normal_scores = np.concatenate(normal)
    points = [(0.0, 0.0)]
    for threshold in sorted({float(value) for anomaly_map in maps for value in anomaly_map.flat}, reverse=True):
        fpr = float((normal_scores >= threshold).mean())
        points.append((fpr, float(np.mean([(region >= threshold).mean() for region in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 4),
    levels=st.sampled_from([1, 2, 5, 40, 10_000]),
    density=st.sampled_from([0.03, 0.15, 0.5]),
    limit=st.sampled_from([0.05, 0.3, 0.5, 1.0]),
)
@settings(max_examples=120, deadline=None)
def test_aupro_against_brute_force(seed: int, images: int, levels: int, density: float, limit: float) -> None:
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(3, 12, 2)) for _ in range(images)]
    masks = [rng.random(shape) < density for shape in shapes]
    masks[0].flat[0], masks[0].flat[-1] = True, False
    maps = [
        (rng.integers(0, levels, shape) / levels + 0.3 * mask * (rng.random() < 0.7)).astype(np.float32)
        for shape, mask in zip(shapes, masks, strict=True)
    ]
    assert _aupro(maps, masks, limit) == pytest.approx(_brute_force(maps, masks, limit), abs=1e-12)


def test_a_hand_computed_case() -> None:
    """16 pixels, two regions of 2 and 1 pixels, 13 free of defects; every score another one."""
    mask = np.zeros((4, 4), bool)
    mask[0, :2] = mask[3, 3] = True
    scores = np.zeros((4, 4))
    scores[~mask] = np.arange(13) / 100
    scores[0, 0], scores[0, 1], scores[3, 3] = 0.9, 0.115, 0.105
    # Descending: 0.9 (half of region 1), 0.12 (free), 0.115 (its rest), 0.11 (free), 0.105 (region 2), 11 free ones.
    # PRO is 1/4 up to FPR 1/13, 1/2 up to 2/13, then 1.
    expected = (1 / 13 * 0.25 + 1 / 13 * 0.5 + (0.3 - 2 / 13) * 1) / 0.3
    assert _aupro([scores], [mask]) == pytest.approx(expected, abs=1e-7)


def test_the_curve_is_interpolated_at_the_limit() -> None:
    """Nine free pixels and one of the defect in a tie: the curve is the straight line from (0, 0) to (0.5, 1)."""
    mask = np.zeros((1, 11), bool)
    mask[0, 10] = True
    scores = np.array([[0] * 5 + [1] * 6])
    assert _aupro([scores], [mask], 0.3) == pytest.approx(0.3 * 0.6 / 2 / 0.3)
    assert _aupro([scores], [mask], 0.5) == pytest.approx(0.5 * 1.0 / 2 / 0.5)
    assert _aupro([scores], [mask], 1.0) == pytest.approx(0.5 * 1.0 / 2 + 0.5)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = mask[1, 1] = mask[3, 3] = True
    scores = np.where(mask, 1.0, 0.0)
    scores[3, 3] = -1.0
    pixels = PixelScores()
    pixels.add(scores.astype(np.float32), mask)
    assert pixels.regions() == 2
    # The region of two pixels is found whole before any false positive; all free pixels come before the other one.
    curve = pixels.curve()
    assert curve is not None
    assert curve.aupro(1.0) == pytest.approx(0.5, abs=1e-12)


def test_regions_count_the_same_whatever_their_area() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:, :4] = True
    mask[0, 7] = True
    found_large, found_small = np.zeros((4, 8)), np.zeros((4, 8))
    found_large[:, :4], found_large[0, 7] = 1, -1
    found_small[:, :4], found_small[0, 7] = -1, 1
    assert _aupro([found_large], [mask]) == pytest.approx(0.5)
    assert _aupro([found_small], [mask]) == pytest.approx(0.5)


def test_good_images_count_in_the_false_positive_rate() -> None:
    mask = np.zeros((2, 2), bool)
    mask[0, 0] = True
    scores = np.array([[0.5, 0.1], [0.1, 0.1]])
    quiet, loud = np.full((4, 4), 0.2), np.full((4, 4), 0.9)
    empty = np.zeros((4, 4), bool)
    assert _aupro([scores, quiet], [mask, empty]) == pytest.approx(1.0)
    assert _aupro([scores, loud], [mask, empty]) == pytest.approx(0.0)


def test_perfect_inverted_and_constant_maps() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    assert _aupro([mask * 1.0], [mask]) == pytest.approx(1.0)
    assert _aupro([mask * -1.0], [mask]) == pytest.approx(0.0)
    for limit in (0.05, 0.3, 1.0):
        assert _aupro([np.full((4, 4), 7.0)], [mask], limit) == pytest.approx(limit / 2)


def test_aupro_is_not_defined_without_regions_or_without_free_pixels() -> None:
    scores = np.random.default_rng(0).random((4, 4))
    assert _aupro([], []) is None
    assert _aupro([scores], [np.zeros((4, 4))]) is None
    assert _aupro([scores], [np.ones((4, 4))]) is None


def test_pixel_scores_refuse_what_cannot_be_meant() -> None:
    pixels = PixelScores()
    with pytest.raises(ValueError, match=r"the map has the shape \(2, 2\), its mask \(2, 3\)"):
        pixels.add(np.zeros((2, 2), np.float32), np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="1 of the 4 values of the anomaly map are not finite"):
        pixels.add(np.array([[0, NAN], [0, 0]], np.float32), np.zeros((2, 2), bool))
    for limit in (0.0, -0.3, 1.1):
        with pytest.raises(ValueError, match="limit"):
            _aupro([np.eye(2)], [np.eye(2)], limit)


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([2, 4, 1000]))
@settings(max_examples=60, deadline=None)
def test_image_auroc_is_the_share_of_pairs_in_order(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    good, bad = rng.integers(0, levels, rng.integers(1, 9)), rng.integers(0, levels, rng.integers(1, 9))
    pairs = [1.0 if b > g else 0.5 if b == g else 0.0 for g in good for b in bad]
    truth = np.repeat([False, True], [len(good), len(bad)])
    assert image_auroc(truth, np.concatenate([good, bad])) == pytest.approx(np.mean(pairs))


def test_image_auroc_of_constant_scores_is_a_half() -> None:
    assert image_auroc([True, False, False], [3.0, 3.0, 3.0]) == 0.5


@pytest.mark.parametrize("truth", [[False, False], [True, True], []])
def test_image_auroc_needs_good_and_defective_images(truth: list[bool]) -> None:
    assert image_auroc(truth, np.zeros(len(truth))) is None
    assert image_roc(truth, np.zeros(len(truth))) is None


def test_image_auroc_refuses_scores_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="1 of the 2 values of the scores are not finite"):
        image_auroc([True, False], [1.0, NAN])


def test_the_roc_curve_belongs_to_the_auroc() -> None:
    truth, scores = [False, True, False, True, True], [0.1, 0.4, 0.4, 0.8, 0.05]
    curve = image_roc(truth, scores)
    assert curve is not None
    assert (curve[0][0], curve[1][0], curve[0][-1], curve[1][-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx(image_auroc(truth, scores))


def test_decisions_fail_above_the_threshold_only() -> None:
    counts = count_decisions([False, False, False, True, True], [0.5, 1.0, 1.5, 1.0, 2.0], threshold=1.0)
    assert (counts.good, counts.false_rejects, counts.defective, counts.escapes) == (3, 1, 2, 1)
    assert counts.false_reject_rate == pytest.approx(1 / 3)
    assert counts.escape_rate == 0.5


def test_rates_of_no_images_are_not_defined() -> None:
    assert count_decisions([True], [1.0], 0.5).false_reject_rate is None
    assert count_decisions([False], [1.0], 0.5).escape_rate is None
