"""Figures of merit over pixels, at the resolution of the original images: how well a map shows where the defect is.

The per-region overlap is that of P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger: The MVTec Anomaly
Detection Dataset, IJCV 129 (2021), section 5.2. Every figure is exact: each distinct score is a threshold, nothing is
put into bins.

Between two neighbouring scores of defect pixels only false positives change. So a curve is known from the defects'
distinct scores alone, a few of all pixels, with the number of defect-free pixels above and at each: these need to be
sorted once, and serve every figure, of all images and of each kind of defect.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from atsnet.data.layout import GOOD
from atsnet.evaluation.metrics import BestF1, BoolArray, Float64Array, best_f1, check_finite
from atsnet.imaging import Float32Array

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """What one map threshold does to all pixels; a pixel at or above it is taken for a defect."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    pro: float
    """Mean over the regions of the share of their pixels that is found."""

    @property
    def fpr(self) -> float:
        """Share of the defect-free pixels that are taken for defects."""
        return self.false_positives / (self.false_positives + self.true_negatives)

    @property
    def iou(self) -> float:
        """Intersection over union of the pixels taken for defects and those that are (the foreground alone)."""
        return self.true_positives / (self.true_positives + self.false_positives + self.false_negatives)

    @property
    def mean_iou_two_class(self) -> float:
        """Mean of `iou` and the same of the background, which is near 1 whatever the map says: defects are small."""
        background = self.true_negatives / (self.true_negatives + self.false_positives + self.false_negatives)
        return (self.iou + background) / 2


@dataclass(frozen=True, slots=True)
class ProAtRecall:
    """The working point where a given share of all defect pixels is found."""

    pro: float
    fpr: float
    """Share of the defect-free pixels that are taken for defects there: a high PRO alone says nothing."""
    threshold: float


@dataclass(frozen=True, slots=True)
class PixelCurve:
    """All working points of a map on some images, at the K distinct scores of their defect pixels, falling."""

    thresholds: Float32Array
    """`[K]`."""
    true_positives: Int64Array
    """`[K]`, defect pixels at or above each threshold."""
    overlap: Float64Array
    """`[K]`, mean over the regions of the share of their pixels at or above the threshold (PRO)."""
    false_positives: Int64Array
    """`[K]`, defect-free pixels at or above the threshold."""
    false_positives_above: Int64Array
    """`[K]`, defect-free pixels above it."""
    positives: int
    negatives: int

    def auroc(self) -> float:
        """Area under the ROC curve of single pixels; large defects outweigh small ones."""
        gained = np.diff(self.true_positives, prepend=0)
        below = self.negatives - (self.false_positives + self.false_positives_above) / 2
        return float(gained @ below) / self.positives / self.negatives

    def average_precision(self) -> float:
        """Precision at every threshold, weighted by the recall gained there."""
        gained = np.diff(self.true_positives, prepend=0)
        return float(gained @ (self.true_positives / (self.true_positives + self.false_positives))) / self.positives

    def f1_max(self) -> BestF1:
        """The largest F1 of single pixels over all thresholds."""
        return best_f1(self.thresholds, self.true_positives, self.false_positives, self.positives)

    def aupro(self, limit: float = 0.3) -> float:
        """Normalised area under the per-region overlap (PRO) over the false-positive rate (FPR), from 0 to `limit`.

        At a threshold, PRO is the mean over all regions of the share of their pixels at or above it, and FPR the share
        of the defect-free pixels of all images at or above it. The curve has a point for every distinct score, (0, 0)
        before the first; it is integrated by trapezoids, interpolated at the limit, and divided by the limit.

        A constant map has the one point (1, 1), which makes `limit / 2`.
        """
        if not 0 < limit <= 1:
            raise ValueError(f"the limit of the false-positive rate must be in (0, 1], not {limit}")
        return _area_up_to(*self.pro(), limit) / limit

    def pro(self) -> tuple[Float64Array, Float64Array]:
        """FPR and PRO, `[2 K + 2]` each, where the curve bends: a level line between two thresholds has two ends."""
        fpr = np.zeros(2 * len(self.thresholds) + 2)
        pro = np.zeros_like(fpr)
        fpr[1:-1:2] = self.false_positives_above / self.negatives
        fpr[2:-1:2] = self.false_positives / self.negatives
        pro[3:-1:2] = self.overlap[:-1]
        pro[2:-1:2] = self.overlap
        fpr[-1] = pro[-1] = 1
        return fpr, pro

    def pro_at_recall(self, recall: float) -> ProAtRecall:
        """PRO and FPR at the highest threshold that finds at least this share of all defect pixels."""
        if not 0 < recall <= 1:
            raise ValueError(f"the recall must be in (0, 1], not {recall}")
        needed = math.ceil(recall * self.positives - 1e-9)
        at = int(np.searchsorted(self.true_positives, needed))
        return ProAtRecall(
            float(self.overlap[at]), float(self.false_positives[at]) / self.negatives, float(self.thresholds[at])
        )


@dataclass
class _Group:
    """Pixels of the images of one label."""

    images: int = 0
    regions: int = 0
    normal_parts: list[Float32Array] = field(default_factory=list)
    defect_parts: list[Float32Array] = field(default_factory=list)
    weight_parts: list[Float64Array] = field(default_factory=list)
    is_sorted: bool = False

    def normal(self) -> Float32Array:
        """Scores of the defect-free pixels, rising; sorted when first asked for."""
        if not self.is_sorted:
            merged = np.concatenate(self.normal_parts)
            self.normal_parts.clear()
            merged.sort()
            self.normal_parts.append(merged)
            self.is_sorted = True
        return self.normal_parts[0]


@dataclass
class PixelScores:
    """Collects anomaly maps with their masks, image by image, for the figures over all pixels of a test set.

    Only the pixels' scores are kept, 4 bytes each and 12 more on a defect. Images without a known mask are left out:
    which of their pixels are free of defects is not known. So are defective images whose mask is empty.
    """

    _groups: dict[str, _Group] = field(default_factory=dict)

    def add(self, anomaly_map: Float32Array, mask: BoolArray, label: str = GOOD) -> None:
        """Add one image.

        Args:
            anomaly_map: `float32 [H, W]`, at the resolution of the original image.
            mask: `bool [H, W]`, True on the defect; all False for a good image.
            label: `good` or the name of the defect.

        Raises:
            ValueError: The shapes differ, or the map is not finite.
        """
        if anomaly_map.shape != mask.shape:
            raise ValueError(f"the map has the shape {anomaly_map.shape}, its mask {mask.shape}")
        check_finite(anomaly_map, "anomaly map")
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        group = self._groups.setdefault(label, _Group())
        group.images += 1
        group.regions += count - 1
        group.normal_parts.append(anomaly_map[~mask])
        group.is_sorted = False
        if count > 1:
            # Every region counts the same, whatever its area: a pixel weighs one over the pixels of its region.
            areas = statistics[:, cv2.CC_STAT_AREA].astype(np.float64)
            group.defect_parts.append(anomaly_map[mask])
            group.weight_parts.append(1 / areas[labels[mask]])

    def images(self, label: str | None = None) -> int:
        """How many images were added, of one label or in all."""
        return sum(group.images for group in self._chosen(label))

    def regions(self, label: str | None = None) -> int:
        """Connected defects in them; pixels that touch at a corner only are connected."""
        return sum(group.regions for group in self._chosen(label))

    def curve(self, defect: str | None = None) -> PixelCurve | None:
        """The working points on all images, or on those of one defect together with the good ones.

        None where there is no region or no defect-free pixel.
        """
        groups = self._chosen() if defect is None else self._chosen(defect, GOOD)
        regions, negatives = sum(group.regions for group in groups), sum(group.normal().size for group in groups)
        if not regions or not negatives:
            return None
        scores = np.concatenate([part for group in groups for part in group.defect_parts])
        weights = np.concatenate([part for group in groups for part in group.weight_parts])
        order = np.argsort(-scores)
        scores, overlap = scores[order], np.cumsum(weights[order]) / regions
        last_of_tie = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
        thresholds = scores[last_of_tie]
        return PixelCurve(
            thresholds=thresholds,
            true_positives=last_of_tie + 1,
            overlap=np.minimum(overlap[last_of_tie], 1),
            false_positives=negatives - _below(groups, thresholds, "left"),
            false_positives_above=negatives - _below(groups, thresholds, "right"),
            positives=scores.size,
            negatives=negatives,
        )

    def counts(self, threshold: float) -> PixelCounts | None:
        """What a threshold does to the pixels of all images; None where `curve` is."""
        groups, regions = self._chosen(), self.regions()
        positives = sum(part.size for group in groups for part in group.defect_parts)
        negatives = sum(group.normal().size for group in groups)
        if not positives or not negatives:
            return None
        lowest = np.float32(threshold)
        if float(lowest) < threshold:
            # The same decision as in double precision, without widening every pixel to it.
            lowest = np.nextafter(lowest, np.float32(np.inf))
        found = [part >= lowest for group in groups for part in group.defect_parts]
        weights = [part for group in groups for part in group.weight_parts]
        true_positives = sum(int(hits.sum()) for hits in found)
        true_negatives = int(_below(groups, np.array([lowest]), "left")[0])
        pro = sum(float(part[hits].sum()) for part, hits in zip(weights, found, strict=True)) / regions
        return PixelCounts(
            true_positives=true_positives,
            false_positives=negatives - true_negatives,
            false_negatives=positives - true_positives,
            true_negatives=true_negatives,
            pro=min(pro, 1.0),
        )

    def _chosen(self, *labels: str | None) -> list[_Group]:
        wanted = set(labels) - {None}
        return [group for label, group in self._groups.items() if not wanted or label in wanted]


def _below(groups: Iterable[_Group], thresholds: Float32Array, side: Literal["left", "right"]) -> Int64Array:
    """How many defect-free pixels are below each threshold (left), or at most at it (right)."""
    counts = np.zeros(len(thresholds), np.int64)
    for group in groups:
        # Searched for in rising order, neighbours are found near each other in memory.
        counts += np.searchsorted(group.normal(), thresholds[::-1], side)[::-1]
    return counts


def _area_up_to(x: Float64Array, y: Float64Array, limit: float) -> float:
    """Integral of a polyline from 0 to `limit`; `x` does not decrease and reaches from 0 to 1."""
    inside = int(np.searchsorted(x, limit, side="right"))
    if inside < len(x):
        last = inside - 1
        slope = (y[inside] - y[last]) / (x[inside] - x[last])
        x = np.append(x[:inside], limit)
        y = np.append(y[:inside], y[last] + slope * (limit - x[last]))
    return float(np.trapezoid(y, x))
