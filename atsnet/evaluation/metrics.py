"""Figures of merit: image AUROC, and the per-region overlap of the MVTec AD evaluation.

P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger: The MVTec Anomaly Detection Dataset, IJCV 129 (2021),
section 5.2. A figure that is not defined on the data at hand is None, never a number that looks like one.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from atsnet.imaging import Float32Array

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]


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
    truth, values = np.asarray(defective, np.bool_), np.asarray(scores, np.float64)
    _check_finite(values, "scores")
    return None if truth.all() or not truth.any() else float(roc_auc_score(truth, values))


def image_roc(defective: ArrayLike, scores: ArrayLike) -> tuple[Float64Array, Float64Array] | None:
    """The curve of `image_auroc`: false-positive and true-positive rates at every threshold; None where undefined."""
    truth, values = np.asarray(defective, np.bool_), np.asarray(scores, np.float64)
    if truth.all() or not truth.any():
        return None
    false_positives, true_positives, _ = roc_curve(truth, values, drop_intermediate=False)
    return false_positives, true_positives


@dataclass(frozen=True, slots=True)
class DecisionCounts:
    """What one threshold does to a test set; a score above it fails."""

    good: int
    false_rejects: int
    """Good images that fail."""
    defective: int
    escapes: int
    """Defective images that pass."""

    @property
    def false_reject_rate(self) -> float | None:
        """Share of the good images that fail; None where there are none."""
        return self.false_rejects / self.good if self.good else None

    @property
    def escape_rate(self) -> float | None:
        """Share of the defective images that pass; None where there are none."""
        return self.escapes / self.defective if self.defective else None


def count_decisions(defective: ArrayLike, scores: ArrayLike, threshold: float) -> DecisionCounts:
    """Count false rejects and escapes at a threshold, in the units of the scores."""
    truth, fails = np.asarray(defective, np.bool_), np.asarray(scores, np.float64) > threshold
    return DecisionCounts(
        int((~truth).sum()), int((fails & ~truth).sum()), int(truth.sum()), int((truth & ~fails).sum())
    )


@dataclass
class PixelScores:
    """Collects anomaly maps with their masks, image by image, for the metrics over all pixels of a test set.

    Only the pixels' scores are kept, 4 bytes each and 12 more on a defect; 58 million pixels take about 0.5 GB at the
    peak. Images without a known mask are left out: which of their pixels are free of defects is not known. So are
    defective images whose mask is empty.
    """

    regions: int = 0
    """Connected defects so far; pixels that touch at a corner only are connected."""
    images: int = 0
    _normal: list[Float32Array] = field(default_factory=list)
    _defect: list[Float32Array] = field(default_factory=list)
    _weights: list[Float64Array] = field(default_factory=list)

    def add(self, anomaly_map: Float32Array, mask: BoolArray) -> None:
        """Add one image.

        Args:
            anomaly_map: `float32 [H, W]`, at the resolution of the original image.
            mask: `bool [H, W]`, True on the defect; all False for a good image.

        Raises:
            ValueError: The shapes differ, or the map is not finite.
        """
        if anomaly_map.shape != mask.shape:
            raise ValueError(f"the map has the shape {anomaly_map.shape}, its mask {mask.shape}")
        _check_finite(anomaly_map, "anomaly map")
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        self.images += 1
        self.regions += count - 1
        self._normal.append(anomaly_map[~mask])
        if count > 1:
            # Every region counts the same, whatever its area: a pixel weighs one over the pixels of its region.
            areas = statistics[:, cv2.CC_STAT_AREA].astype(np.float64)
            self._defect.append(anomaly_map[mask])
            self._weights.append(1 / areas[labels[mask]])

    def aupro(self, limit: float = 0.3) -> float | None:
        """Normalised area under the per-region overlap (PRO) over the false-positive rate (FPR), from 0 to `limit`.

        At a threshold, PRO is the mean over all regions of the share of their pixels at or above it, and FPR the share
        of the defect-free pixels of all images at or above it. The curve has a point for every distinct score, (0, 0)
        before the first; it is integrated by trapezoids, interpolated at the limit, and divided by the limit.

        A constant map has the one point (1, 1), which makes `limit / 2`.

        Returns:
            0..1, or None where there is no region or no defect-free pixel.
        """
        if not 0 < limit <= 1:
            raise ValueError(f"the limit of the false-positive rate must be in (0, 1], not {limit}")
        curve = self._pro_curve()
        return None if curve is None else _area_up_to(*curve, limit) / limit

    def _pro_curve(self) -> tuple[Float64Array, Float64Array] | None:
        """FPR and PRO where the curve bends.

        Between two neighbouring scores of region pixels only FPR changes, so the points there lie on a level line: it
        is enough to know its two ends, and the defect-free pixels need sorting but no weights.
        """
        if not self.regions:
            return None
        normal = np.concatenate(self._normal)
        if not normal.size:
            return None
        normal.sort()
        defect, weights = np.concatenate(self._defect), np.concatenate(self._weights)
        order = np.argsort(-defect)
        defect, overlap = defect[order], np.cumsum(weights[order]) / self.regions
        last_of_tie = np.append(defect[1:] != defect[:-1], True)
        thresholds, overlap = defect[last_of_tie], np.minimum(overlap[last_of_tie], 1)
        fpr = np.zeros(2 * len(thresholds) + 2)
        pro = np.zeros_like(fpr)
        fpr[1:-1:2] = (normal.size - np.searchsorted(normal, thresholds, side="right")) / normal.size
        fpr[2:-1:2] = (normal.size - np.searchsorted(normal, thresholds, side="left")) / normal.size
        pro[3:-1:2] = overlap[:-1]
        pro[2:-1:2] = overlap
        fpr[-1] = pro[-1] = 1
        return fpr, pro


def _area_up_to(x: Float64Array, y: Float64Array, limit: float) -> float:
    """Integral of a polyline from 0 to `limit`; `x` does not decrease and reaches from 0 to 1."""
    inside = int(np.searchsorted(x, limit, side="right"))
    if inside < len(x):
        last = inside - 1
        slope = (y[inside] - y[last]) / (x[inside] - x[last])
        x = np.append(x[:inside], limit)
        y = np.append(y[:inside], y[last] + slope * (limit - x[last]))
    return float(np.trapezoid(y, x))


def _check_finite(values: Float32Array | Float64Array, what: str) -> None:
    unusable = int((~np.isfinite(values)).sum())
    if unusable:
        raise ValueError(f"{unusable} of the {values.size} values of the {what} are not finite")
