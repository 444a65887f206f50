"""Figures of merit over images: ranking, best F1, and what a threshold does, with its uncertainty.

A figure that is not defined on the data at hand is None, never a number that looks like one. Figures over pixels are in
`atsnet.evaluation.pixel_metrics`.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

CONFIDENCE: Final = 0.95
"""Of every interval."""


def image_auroc(defective: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve; a tie between a good and a defective image counts one half.

    Args:
        defective: `bool [N]`, whether each image is defective.
        scores: `float [N]`, higher is more anomalous.

    Returns:
        0..1, or None where there are not both good and defective images.

    Raises:
        ValueError: A score is not finite.
    """
    truth, values = _checked(defective, scores)
    return float(roc_auc_score(truth, values)) if _has_both(truth) else None


def image_ap(defective: ArrayLike, scores: ArrayLike) -> float | None:
    """Average precision: the precision at every threshold, weighted by the recall gained there, not interpolated.

    Defective images are the positives, so scores that say nothing reach their share of the test set.

    Args, returns and raises: as `image_auroc`.
    """
    truth, values = _checked(defective, scores)
    return float(average_precision_score(truth, values)) if _has_both(truth) else None


def image_roc(defective: ArrayLike, scores: ArrayLike) -> tuple[Float64Array, Float64Array] | None:
    """The curve of `image_auroc`: false-positive and true-positive rates at every threshold; None where undefined."""
    truth, values = np.asarray(defective, np.bool_), np.asarray(scores, np.float64)
    if not _has_both(truth):
        return None
    false_positives, true_positives, _ = roc_curve(truth, values, drop_intermediate=False)
    return false_positives, true_positives


@dataclass(frozen=True, slots=True)
class BestF1:
    """The largest F1 that any one threshold reaches; found with the labels, so no promise for new parts."""

    f1: float
    threshold: float
    """Scores at or above it count as defective; the highest one that reaches `f1`."""


def image_f1_max(defective: ArrayLike, scores: ArrayLike) -> BestF1 | None:
    """F1 = 2 TP / (2 TP + FP + FN), defective images being the positives, at the best threshold.

    Args, returns and raises: as `image_auroc`.
    """
    truth, values = _checked(defective, scores)
    if not _has_both(truth):
        return None
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    last_of_tie = np.append(values[1:] != values[:-1], True)
    found = np.cumsum(truth)[last_of_tie]
    return best_f1(values[last_of_tie], found, np.flatnonzero(last_of_tie) + 1 - found, int(truth.sum()))


def best_f1(thresholds: ArrayLike, true_positives: ArrayLike, false_positives: ArrayLike, positives: int) -> BestF1:
    """The best of several thresholds, given in falling order with the counts at or above each."""
    found, alarms = np.asarray(true_positives), np.asarray(false_positives)
    f1 = 2 * found / (found + alarms + positives)
    best = int(np.argmax(f1))
    return BestF1(float(f1[best]), float(np.asarray(thresholds)[best]))


def binomial_interval(count: int, total: int) -> tuple[float, float] | None:
    """The `CONFIDENCE` interval of a rate of which `count` of `total` were observed; None without observations.

    Exact in the sense of Clopper and Pearson (Biometrika 26, 1934): it holds the true rate at least that often,
    whatever the rate is.
    """
    if not total:
        return None
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class DecisionCounts:
    """What thresholds do to a test set: an image passes, fails, or goes to a person for review."""

    good: int
    false_rejects: int
    """Good images that fail."""
    good_reviewed: int
    defective: int
    escapes: int
    """Defective images that pass."""
    defective_reviewed: int

    @property
    def failed(self) -> int:
        """Images that fail, rightly or not."""
        return self.false_rejects + self.defective - self.escapes - self.defective_reviewed

    @property
    def false_reject_rate(self) -> float | None:
        """Share of the good images that fail; None where there are none."""
        return self.false_rejects / self.good if self.good else None

    @property
    def escape_rate(self) -> float | None:
        """Share of the defective images that pass; None where there are none."""
        return self.escapes / self.defective if self.defective else None

    @property
    def false_reject_interval(self) -> tuple[float, float] | None:
        """Of `false_reject_rate`."""
        return binomial_interval(self.false_rejects, self.good)

    @property
    def escape_interval(self) -> tuple[float, float] | None:
        """Of `escape_rate`."""
        return binomial_interval(self.escapes, self.defective)


def count_decisions(
    defective: ArrayLike, scores: ArrayLike, threshold: float, review_from: float | None = None
) -> DecisionCounts:
    """Count what becomes of the images.

    Args:
        defective: `bool [N]`, whether each image is defective.
        scores: `float [N]`.
        threshold: An image fails above it, in the units of the scores.
        review_from: One that does not fail is for review from here on; none is by default.
    """
    truth, values = np.asarray(defective, np.bool_), np.asarray(scores, np.float64)
    fails = values > threshold
    reviewed = np.zeros_like(fails) if review_from is None else ~fails & (values >= review_from)
    return DecisionCounts(
        good=int((~truth).sum()),
        false_rejects=int((fails & ~truth).sum()),
        good_reviewed=int((reviewed & ~truth).sum()),
        defective=int(truth.sum()),
        escapes=int((truth & ~fails & ~reviewed).sum()),
        defective_reviewed=int((truth & reviewed).sum()),
    )


def check_finite(values: NDArray[np.floating], what: str) -> None:
    """Refuse NaN and infinity, which no figure may be made from.

    Raises:
        ValueError: A value is not finite.
    """
    unusable = int((~np.isfinite(values)).sum())
    if unusable:
        raise ValueError(f"{unusable} of the {values.size} values of the {what} are not finite")


def _checked(defective: ArrayLike, scores: ArrayLike) -> tuple[BoolArray, Float64Array]:
    truth, values = np.asarray(defective, np.bool_), np.asarray(scores, np.float64)
    check_finite(values, "scores")
    return truth, values


def _has_both(truth: BoolArray) -> bool:
    return bool(truth.any() and not truth.all())
