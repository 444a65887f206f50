"""From the network's numbers to a verdict and the anomalous regions; pure functions of their arguments."""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from atsnet.imaging import Float32Array, InputGeometry, Placement
from service.recipes import Recipe
from service.reply import Region, ResultCode, VerdictWord

MAX_REGIONS: Final = 32
RESULTS: Final[dict[VerdictWord, ResultCode]] = {"not_evaluated": 0, "pass": 1, "fail": 2, "review": 4}

_ANOMALOUS: Final = 1.0
"""Calibrated map value from which a pixel belongs to an anomalous region."""


class NotFiniteError(ValueError):
    """The network answered NaN or infinity, which must never become a verdict."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with the calibrated score that it rests on."""

    score: float
    verdict: VerdictWord


def judge(raw_score: float, score_threshold: float, recipe: Recipe) -> Judgement:
    """Compare a raw score with a recipe.

    Args:
        raw_score: In the network's own units.
        score_threshold: The bundle's; raw / threshold is the calibrated score.
        recipe: Fails what is *above* its threshold, asks for a review *from* its review score.

    Raises:
        NotFiniteError: The score is NaN or infinite.
    """
    score = raw_score / score_threshold
    if not math.isfinite(score):
        raise NotFiniteError(f"the network answered the score {raw_score}")
    if score > recipe.threshold:
        return Judgement(score, "fail")
    if recipe.review_from is not None and score >= recipe.review_from:
        return Judgement(score, "review")
    return Judgement(score, "pass")


def find_regions(anomaly_map: Float32Array, placement: Placement, geometry: InputGeometry) -> tuple[Region, ...]:
    """Connected areas of the calibrated map that reach 1.0, greatest peak first, 32 at most.

    They are found at the frame's resolution and only their boxes are scaled to the original image, so that the cost
    does not grow with the camera's.

    Args:
        anomaly_map: Calibrated, `float32 [h, w]`, covering the frame.
        placement: Where in frame and image the content lies.
        geometry: The frame's size.

    Raises:
        NotFiniteError: The map holds NaN or infinity.
    """
    peak = float(anomaly_map.max())
    if not math.isfinite(peak) or not math.isfinite(float(anomaly_map.min())):
        raise NotFiniteError("the network answered a map that is not finite")
    if peak < _ANOMALOUS:
        return ()
    enlarged = cv2.resize(anomaly_map, (geometry.width, geometry.height), interpolation=cv2.INTER_LINEAR)
    content = enlarged[
        placement.top : placement.top + placement.height, placement.left : placement.left + placement.width
    ]
    # Looking for components takes its time even where there are none: only the part that has them is searched.
    mask = (content >= _ANOMALOUS).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:  # all of it in the padding
        return ()
    part = np.s_[top : top + height, left : left + width]
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask[part], connectivity=8)
    boxes[:, :2] += (left, top)
    peaks = np.zeros(count, np.float32)
    anomalous = mask[part] > 0
    np.maximum.at(peaks, labels[anomalous].astype(np.intp), content[part][anomalous])
    greatest_first = np.argsort(-peaks[1:], kind="stable")[:MAX_REGIONS] + 1
    return tuple(_to_image(boxes[label], float(peaks[label]), placement) for label in greatest_first)


def _to_image(box: np.ndarray, peak: float, placement: Placement) -> Region:
    left, top, width, height, area = (int(value) for value in box)
    roi = placement.roi
    scale_x, scale_y = roi.width / placement.width, roi.height / placement.height
    x, y = math.floor(left * scale_x), math.floor(top * scale_y)
    right = min(roi.width, math.ceil((left + width) * scale_x))
    bottom = min(roi.height, math.ceil((top + height) * scale_y))
    return Region(
        x=roi.x + x,
        y=roi.y + y,
        width=right - x,
        height=bottom - y,
        area=max(1, round(area * scale_x * scale_y)),
        peak=round(peak, 4),
    )
