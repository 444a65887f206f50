import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from atsnet.evaluation.pixel_metrics import PixelCurve, PixelScores

NAN = float("nan")


def _collect(maps: list[np.ndarray], masks: list[np.ndarray]) -> PixelScores:
    pixels = PixelScores()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.add(np.asarray(anomaly_map, np.float32), np.asarray(mask, bool))
    return pixels


def _curve(maps: list[np.ndarray], masks: list[np.ndarray]) -> PixelCurve:
    curve = _collect(maps, masks).curve()
    assert curve is not None
    return curve


def _aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float = 0.3) -> float | None:
    curve = _collect(maps, masks).curve()
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


def _random_set(seed: int, levels: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Four images, one of them good, with ties and regions of several pixels."""
    rng = np.random.default_rng(seed)
    masks = [ndimage.binary_dilation(rng.random((9, 11)) < 0.04) for _ in range(3)] + [np.zeros((5, 4), bool)]
    masks[0][4, 4] = True
    maps = [(rng.integers(0, levels, mask.shape) / levels + 0.3 * mask).astype(np.float32) for mask in masks]
    return maps, masks


def _flat(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 3, 10_000]))
@settings(max_examples=20, deadline=None)
def test_figures_over_pixels_against_scikit_learn(seed: int, levels: int) -> None:
    maps, masks = _random_set(seed, levels)
    truth, scores = _flat(masks), _flat(maps)
    pixels = _collect(maps, masks)
    curve = pixels.curve()
    assert curve is not None
    assert curve.auroc() == pytest.approx(roc_auc_score(truth, scores))
    assert curve.average_precision() == pytest.approx(average_precision_score(truth, scores))
    best = curve.f1_max()
    f1 = {float(threshold): f1_score(truth, scores >= threshold) for threshold in set(scores)}
    assert best.f1 == pytest.approx(max(f1.values()))
    assert f1[best.threshold] == pytest.approx(best.f1)
    counts = pixels.counts(best.threshold)
    assert counts is not None
    assert counts.iou == pytest.approx(jaccard_score(truth, scores >= best.threshold))
    assert counts.iou == pytest.approx(best.f1 / (2 - best.f1))


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 3, 10_000]), threshold=st.floats(0, 1.4))
@settings(max_examples=60, deadline=None)
def test_one_threshold_against_scikit_learn(seed: int, levels: int, threshold: float) -> None:
    maps, masks = _random_set(seed, levels)
    truth, scores = _flat(masks), _flat(maps).astype(np.float64)
    taken = scores >= threshold
    counts = _collect(maps, masks).counts(threshold)
    assert counts is not None
    assert counts.true_positives == (taken & truth).sum()
    assert counts.false_positives == (taken & ~truth).sum()
    assert counts.false_negatives == (~taken & truth).sum()
    assert counts.true_negatives == (~taken & ~truth).sum()
    assert counts.iou == pytest.approx(jaccard_score(truth, taken, zero_division=0))
    assert counts.mean_iou_two_class == pytest.approx(jaccard_score(truth, taken, average="macro", zero_division=0))
    assert counts.fpr == pytest.approx(taken[~truth].mean())
    assert counts.pro == pytest.approx(_brute_pro(maps, masks, threshold))


def _brute_pro(maps: list[np.ndarray], masks: list[np.ndarray], threshold: float) -> float:
    shares = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        shares += [(anomaly_map[labels == k].astype(np.float64) >= threshold).mean() for k in range(1, count + 1)]
    return float(np.mean(shares))


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 3, 10_000]), recall=st.sampled_from([0.5, 0.95, 1.0]))
@settings(max_examples=60, deadline=None)
def test_pro_at_recall_against_every_threshold(seed: int, levels: int, recall: float) -> None:
    maps, masks = _random_set(seed, levels)
    truth, scores = _flat(masks), _flat(maps)
    threshold = max(t for t in set(scores) if (scores[truth] >= t).mean() >= recall)
    point = _curve(maps, masks).pro_at_recall(recall)
    assert point.threshold == threshold
    assert point.fpr == pytest.approx((scores[~truth] >= threshold).mean())
    assert point.pro == pytest.approx(_brute_pro(maps, masks, threshold))


def test_hand_computed_figures_of_one_image() -> None:
    """Regions of 3 and 1 pixels in 16; falling: 2 defect, 1 free, 1 defect, 11 free, then the single defect last."""
    mask = np.zeros((4, 4), bool)
    mask[0, :3] = mask[3, 3] = True
    scores = np.full((4, 4), 0.2)
    scores[0, :3], scores[3, 3], scores[3, 0] = (0.9, 0.8, 0.6), 0.1, 0.7
    curve = _curve([scores], [mask])
    # Pairs of a defect and a free pixel in order: 12 + 12 + 11 + 0 of 48.
    assert curve.auroc() == pytest.approx(35 / 48)
    assert curve.average_precision() == pytest.approx((1 + 1 + 3 / 4 + 4 / 16) / 4)
    best = curve.f1_max()
    assert best.f1 == pytest.approx(6 / 8)
    assert best.threshold == pytest.approx(0.6)
    counts = _collect([scores], [mask]).counts(best.threshold)
    assert counts is not None
    assert (counts.true_positives, counts.false_positives, counts.false_negatives, counts.true_negatives) == (
        3,
        1,
        1,
        11,
    )
    assert counts.iou == 3 / 5
    assert counts.mean_iou_two_class == pytest.approx((3 / 5 + 11 / 13) / 2)
    assert counts.pro == 0.5
    point = curve.pro_at_recall(0.75)
    assert (point.pro, point.fpr) == (0.5, pytest.approx(1 / 12))
    # 95 % of four pixels are all of them: the false-positive rate says what that costs.
    point = curve.pro_at_recall(0.95)
    assert (point.pro, point.fpr) == (1.0, 1.0)


def test_a_constant_map_says_nothing_of_pixels() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, :2] = True
    curve = _curve([np.full((4, 4), 3.0)], [mask])
    assert curve.auroc() == 0.5
    assert curve.average_precision() == 2 / 16
    assert curve.f1_max().f1 == pytest.approx(4 / 18)
    assert curve.pro_at_recall(0.95).fpr == 1


def test_a_threshold_is_compared_in_double_precision() -> None:
    mask = np.array([[True, False]])
    stored = np.float32(0.1)  # a little above 0.1
    pixels = _collect([np.array([[stored, 0.0]])], [mask])
    for threshold, found in ((float(stored), 1), (float(np.nextafter(float(stored), 1)), 0), (0.1, 1)):
        counts = pixels.counts(threshold)
        assert counts is not None
        assert counts.true_positives == found


def test_a_defects_curve_is_over_its_images_and_the_good_ones() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    images = [("good", ~mask & mask), ("crack", mask), ("pit", mask), ("crack", mask), ("good", ~mask & mask)]
    scored = [(label, rng.random((6, 6)).astype(np.float32) + 0.2 * m, m) for label, m in images]
    together = PixelScores()
    for label, scores, m in scored:
        together.add(scores.astype(np.float32), m, label)
    for defect in ("crack", "pit"):
        alone = _collect(
            [scores for label, scores, _ in scored if label in (defect, "good")],
            [m for label, _, m in scored if label in (defect, "good")],
        ).curve()
        curve = together.curve(defect)
        assert alone is not None
        assert curve is not None
        assert curve.aupro() == pytest.approx(alone.aupro())
        assert curve.auroc() == pytest.approx(alone.auroc())
    assert (together.images(), together.images("crack"), together.regions("pit"), together.regions()) == (5, 2, 1, 3)
    assert together.curve("good") is None


def test_images_may_be_added_after_a_curve_was_asked_for() -> None:
    maps, masks = _random_set(0, 100)
    pixels = _collect(maps[:2], masks[:2])
    assert pixels.curve() is not None
    for anomaly_map, mask in zip(maps[2:], masks[2:], strict=True):
        pixels.add(anomaly_map, mask)
    curve = pixels.curve()
    assert curve is not None
    assert curve.auroc() == pytest.approx(_curve(maps, masks).auroc())


def test_counts_are_not_defined_without_regions_or_without_free_pixels() -> None:
    for mask in (np.zeros((4, 4)), np.ones((4, 4))):
        assert _collect([np.ones((4, 4))], [mask]).counts(0.5) is None
    assert PixelScores().counts(0.5) is None


def test_a_recall_that_cannot_be_meant_is_refused() -> None:
    for recall in (0.0, 1.1):
        with pytest.raises(ValueError, match="recall"):
            _curve([np.eye(2)], [np.eye(2)]).pro_at_recall(recall)
