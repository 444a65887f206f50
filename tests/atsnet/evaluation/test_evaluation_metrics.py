from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from atsnet.evaluation.metrics import (
    binomial_interval,
    count_decisions,
    image_ap,
    image_auroc,
    image_f1_max,
    image_roc,
)

NAN = float("nan")


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


@pytest.mark.parametrize("figure", [image_auroc, image_ap, image_f1_max, image_roc])
@pytest.mark.parametrize("truth", [[False, False], [True, True], []])
def test_figures_need_good_and_defective_images(figure: Callable[..., object], truth: list[bool]) -> None:
    assert figure(truth, np.zeros(len(truth))) is None


@pytest.mark.parametrize("figure", [image_auroc, image_ap, image_f1_max])
def test_scores_that_are_not_finite_are_refused(figure: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="1 of the 2 values of the scores are not finite"):
        figure([True, False], [1.0, NAN])


def _precision_and_recall(truth: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float, float]:
    taken = scores >= threshold
    return float(truth[taken].mean()), float(taken[truth].mean())


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 2, 4, 1000]))
@settings(max_examples=60, deadline=None)
def test_ap_and_f1_max_against_every_threshold(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, 12) / 7
    truth = np.array([True, False, *(rng.random(10) < 0.4)])
    points = [(t, *_precision_and_recall(truth, scores, t)) for t in sorted(set(scores), reverse=True)]
    recalls = [0.0, *(recall for _, _, recall in points)]
    ap = sum(precision * (recall - before) for (_, precision, recall), before in zip(points, recalls, strict=False))
    assert image_ap(truth, scores) == pytest.approx(ap)
    best = image_f1_max(truth, scores)
    assert best is not None
    assert best.f1 == pytest.approx(max(f1_score(truth, scores >= t) for t in scores))
    # The highest of the thresholds that reach it.
    reach_it = [t for t in scores if f1_score(truth, scores >= t) > best.f1 - 1e-12]
    assert best.threshold == max(reach_it)


def test_f1_max_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(200) < 0.3
    scores = rng.normal(size=200) + truth
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = image_f1_max(truth, scores)
    assert best is not None
    useful = recall > 0
    precision, recall = precision[useful], recall[useful]
    assert best.f1 == pytest.approx(np.max(2 * precision * recall / (precision + recall)))
    assert image_ap(truth, scores) == pytest.approx(average_precision_score(truth, scores))


def test_hand_computed_ap_and_f1() -> None:
    """Falling: defect, good, defect, good. Precision 1 at recall 1/2, then 2/3 at recall 1."""
    truth, scores = [True, False, True, False], [0.9, 0.7, 0.5, 0.1]
    assert image_ap(truth, scores) == pytest.approx(1 / 2 + 2 / 3 / 2)
    best = image_f1_max(truth, scores)
    assert best is not None
    assert (best.f1, best.threshold) == (pytest.approx(4 / 5), 0.5)


def test_constant_scores_reach_the_share_of_defects() -> None:
    truth = [True, False, False, False]
    assert image_ap(truth, [2.0] * 4) == 0.25
    best = image_f1_max(truth, [2.0] * 4)
    assert best is not None
    assert (best.f1, best.threshold) == (2 * 1 / (2 * 1 + 3), 2.0)


@pytest.mark.parametrize(("count", "total"), [(0, 20), (1, 20), (7, 30), (20, 20), (3, 190)])
def test_the_interval_ends_where_the_observation_becomes_unlikely(count: int, total: int) -> None:
    """Clopper and Pearson: at either end, what was observed or worse has a probability of 2.5 %."""
    interval = binomial_interval(count, total)
    assert interval is not None
    low, high = interval
    if count > 0:
        assert stats.binom.sf(count - 1, total, low) == pytest.approx(0.025)
    else:
        assert low == 0
    if count < total:
        assert stats.binom.cdf(count, total, high) == pytest.approx(0.025)
    else:
        assert high == 1


def test_the_interval_is_that_of_the_textbooks() -> None:
    # Of 0 in n, the upper end is 1 - (a / 2) ** (1 / n).
    assert binomial_interval(0, 100) == (0.0, pytest.approx(1 - 0.025 ** (1 / 100)))
    assert binomial_interval(0, 0) is None


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


def test_what_is_for_review_neither_fails_nor_escapes() -> None:
    truth, scores = [False, False, False, True, True, True, True], [0.5, 0.8, 1.5, 0.79, 0.8, 1.0, 2.0]
    counts = count_decisions(truth, scores, threshold=1.0, review_from=0.8)
    assert (counts.false_rejects, counts.good_reviewed) == (1, 1)
    assert (counts.escapes, counts.defective_reviewed, counts.failed) == (1, 2, 2)


def test_intervals_of_decisions_hold_their_rates() -> None:
    counts = count_decisions([False] * 50 + [True] * 10, [0.0] * 49 + [2.0] + [2.0] * 7 + [0.0] * 3, threshold=1.0)
    assert counts.false_reject_interval == binomial_interval(1, 50)
    assert counts.escape_interval == binomial_interval(3, 10)
    assert count_decisions([True], [1.0], 0.5).false_reject_interval is None
