"""The figures of one detector on one test set; the set is read once, however many detectors are assessed on it."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from atsnet.calibration import Calibration
from atsnet.data.frames import FrameSet, load_frames, load_masks
from atsnet.data.layout import GOOD, Dataset, Sample
from atsnet.evaluation.cost import CostReport
from atsnet.evaluation.metrics import (
    BoolArray,
    Float64Array,
    count_decisions,
    image_ap,
    image_auroc,
    image_f1_max,
)
from atsnet.evaluation.pixel_metrics import PixelScores
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import Float32Array, InputGeometry, map_to_image
from atsnet.progress import Reporter, silent

AUPRO_LIMIT: Final = 0.3
AUPRO_STRICT_LIMIT: Final = 0.05
PIXEL_RECALL: Final = 0.95


class EvaluationError(Exception):
    """There is nothing to evaluate on; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class TestSet:
    """Test images in memory, with what is known of them."""

    __test__: ClassVar[bool] = False  # no test case, whatever pytest thinks of its name

    name: str
    samples: tuple[Sample, ...]
    frames: FrameSet
    masks: tuple[BoolArray | None, ...]
    """`bool [H, W]` at the size of the original image, True on the defect; None where it is not known which pixels are
    defective: a defective image without a mask or with an empty one."""
    geometry: InputGeometry

    @property
    def defective(self) -> BoolArray:
        """`bool [N]`, whether each image shows a defect."""
        return np.array([sample.defective for sample in self.samples])

    @property
    def labels(self) -> tuple[str, ...]:
        """The kinds of images: `good` first, then the defects by name."""
        return tuple(sorted({sample.label for sample in self.samples}, key=lambda label: (label != GOOD, label)))

    def map_at_original_size(self, anomaly_map: Float32Array, index: int) -> Float32Array:
        """The map `float32 [h, w]` of one image's frame, enlarged to that image: `float32 [H, W]`."""
        height, width = self.frames.sizes[index]
        return map_to_image(anomaly_map, self.frames.placements[index], self.geometry, height, width)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is deployed, learned from normal images alone."""

    score: float
    """Raw score above which an image fails."""
    map_value: float
    """Raw map value from which a position belongs to an anomalous region."""
    target_false_reject_rate: float
    review_from: float | None = None
    """Raw score from which an image that does not fail goes to a person for review; None where there is no review."""

    @classmethod
    def of(cls, calibration: Calibration) -> Self:
        """Those of a calibration."""
        share = calibration.review_score
        return cls(
            calibration.score_threshold,
            calibration.map_threshold,
            calibration.target_false_reject_rate,
            None if share is None else share * calibration.score_threshold,
        )

    def verdict(self, score: float) -> Literal["pass", "review", "fail"]:
        """What becomes of an image with this raw score."""
        if score > self.score:
            return "fail"
        return "review" if self.review_from is not None and score >= self.review_from else "pass"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelReport(_Model):
    """One kind of test images. Figures of a defect are over its images together with the good ones."""

    label: str
    """`good` or the name of a defect."""
    images: int
    image_auroc: float | None
    """None for good images, as all figures that compare, or where there are none to compare with."""
    image_ap: float | None
    failed: int | None
    """Images above the threshold; None without one."""
    reviewed: int | None
    """Images for a person to review; None without a threshold."""
    escape_rate: float | None
    """Share of a defect's images that pass."""
    escape_interval: tuple[float, float] | None
    """95 % interval of `escape_rate` (Clopper and Pearson)."""
    pixel_images: int
    """Of these images, those that figures over pixels can be made from."""
    regions: int
    """Connected defects in their masks."""
    pixel_auroc: float | None
    pixel_ap: float | None
    aupro: float | None
    aupro_005: float | None


class DecisionReport(_Model):
    """What the deployed thresholds do to the test set; intervals are 95 % ones (Clopper and Pearson)."""

    score_threshold: float
    """Raw score above which an image fails."""
    review_from: float | None
    """Raw score from which an image that does not fail is for review; None where none is."""
    target_false_reject_rate: float
    false_rejects: int
    """Good images that fail."""
    false_reject_rate: float | None
    false_reject_interval: tuple[float, float] | None
    escapes: int
    """Defective images that pass, and are not for review either."""
    escape_rate: float | None
    escape_interval: tuple[float, float] | None
    good_reviewed: int
    defective_reviewed: int
    map_threshold: float
    """Raw map value from which a pixel is taken for a defect."""
    iou: float | None
    """Intersection over union of the pixels taken for defects and those that are, over all images together."""
    mean_iou_two_class: float | None
    """Mean of `iou` and the same of the background, which is always near 1."""
    pro: float | None
    """Mean over the regions of the share of their pixels that is found."""
    pixel_fpr: float | None
    """Share of the defect-free pixels that are taken for defects."""


class ProAtRecallReport(_Model):
    """The per-region overlap where a given share of all defect pixels is found, and what that costs."""

    pixel_recall: float
    pro: float
    fpr: float
    """Share of the defect-free pixels that are taken for defects there."""
    threshold: float


class EvaluationReport(_Model):
    """Figures of one detector on one test set; None where a figure is not defined.

    Those under `f1_max` names use a threshold that was found with the labels: what the scores could do, not what is
    deployed. What is deployed is under `decisions`.
    """

    dataset: str
    images: int
    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    image_f1_max_threshold: float | None
    """Raw score; images at or above it count as defective."""
    pixel_images: int
    """Images that the figures over pixels are over."""
    regions: int
    """Connected defects in their masks."""
    without_mask: tuple[str, ...]
    """Defective images without a mask or with an empty one: they count for image scores only."""
    aupro: float | None
    """Area under the per-region overlap up to a false-positive rate of 0.3, at original resolution."""
    aupro_005: float | None
    """The same up to 0.05."""
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_f1_max: float | None
    pixel_f1_max_threshold: float | None
    """Raw map value; pixels at or above it are taken for defects."""
    iou_at_f1_max: float | None
    """Intersection over union there, of the foreground: the largest of any threshold."""
    mean_iou_two_class_at_f1_max: float | None
    pro_at_recall: ProAtRecallReport | None
    labels: tuple[LabelReport, ...]
    decisions: DecisionReport | None
    """None where no threshold is deployed."""
    cost: CostReport | None = None
    """None where it was not measured."""
    warnings: tuple[str, ...] = ()
    """What makes the figures doubtful."""


def load_test_set(dataset: Dataset, geometry: InputGeometry, report: Reporter = silent) -> TestSet:
    """Read the test images and masks of a data set.

    Raises:
        EvaluationError: The data set has no test images.
        DataError: Images or masks cannot be used.
    """
    samples = dataset.test
    if not samples:
        where = (
            "all of it is taken for good images to learn from; put those into good/, and defective ones into a folder "
            "for each defect beside it"
            if dataset.layout == "folder"
            else "they lie in test/good and test/<defect> beside train/good"
        )
        raise EvaluationError(f"{dataset.root} has no test images: {where}")
    frames = load_frames(samples, geometry, progress=lambda done, total: report("reading images", done, total))
    masks = tuple(
        None if sample.defective and mask is not None and not mask.any() else mask
        for sample, mask in zip(samples, load_masks(samples, frames.sizes), strict=True)
    )
    return TestSet(dataset.name, samples, frames, masks, geometry)


def collect_pixels(test_set: TestSet, maps: Float32Array, report: Reporter = silent) -> PixelScores:
    """Enlarge the maps, `float32 [N, h, w]`, to the original images, and collect them with the masks."""
    pixels = PixelScores()
    for index, (sample, mask) in enumerate(zip(test_set.samples, test_set.masks, strict=True)):
        if mask is not None:
            pixels.add(test_set.map_at_original_size(maps[index], index), mask, sample.label)
        report("collecting pixel scores", index + 1, len(test_set.samples))
    return pixels


def assess(
    test_set: TestSet,
    raw: RawScores,
    thresholds: Thresholds | None = None,
    report: Reporter = silent,
    *,
    pixels: PixelScores | None = None,
) -> EvaluationReport:
    """All figures of a detector's answer to a test set.

    Args:
        test_set: What was scored.
        raw: The answer, image by image.
        thresholds: Those deployed, if any: nothing is learned from the test images.
        report: Told how far it is.
        pixels: What `collect_pixels` made of the maps, if the caller has need of it too.

    Raises:
        ValueError: A score or a map is not finite, or their number is not that of the images.
    """
    if len(raw.scores) != len(test_set.samples) or len(raw.maps) != len(test_set.samples):
        raise ValueError(
            f"{len(raw.scores)} scores and {len(raw.maps)} maps for {len(test_set.samples)} images of {test_set.name}"
        )
    pixels = collect_pixels(test_set, raw.maps, report) if pixels is None else pixels
    defective, scores = test_set.defective, raw.scores.astype(np.float64)
    best = image_f1_max(defective, scores)
    curve = pixels.curve()
    pixel_best = curve.f1_max() if curve else None
    at_best = pixels.counts(pixel_best.threshold) if pixel_best else None
    at_recall = curve.pro_at_recall(PIXEL_RECALL) if curve else None
    return EvaluationReport(
        dataset=test_set.name,
        images=len(test_set.samples),
        image_auroc=image_auroc(defective, scores),
        image_ap=image_ap(defective, scores),
        image_f1_max=best.f1 if best else None,
        image_f1_max_threshold=best.threshold if best else None,
        pixel_images=pixels.images(),
        regions=pixels.regions(),
        without_mask=tuple(
            sample.name for sample, mask in zip(test_set.samples, test_set.masks, strict=True) if mask is None
        ),
        aupro=curve.aupro(AUPRO_LIMIT) if curve else None,
        aupro_005=curve.aupro(AUPRO_STRICT_LIMIT) if curve else None,
        pixel_auroc=curve.auroc() if curve else None,
        pixel_ap=curve.average_precision() if curve else None,
        pixel_f1_max=pixel_best.f1 if pixel_best else None,
        pixel_f1_max_threshold=pixel_best.threshold if pixel_best else None,
        iou_at_f1_max=at_best.iou if at_best else None,
        mean_iou_two_class_at_f1_max=at_best.mean_iou_two_class if at_best else None,
        pro_at_recall=at_recall
        and ProAtRecallReport(
            pixel_recall=PIXEL_RECALL, pro=at_recall.pro, fpr=at_recall.fpr, threshold=at_recall.threshold
        ),
        labels=tuple(_assess_label(label, test_set, scores, thresholds, pixels) for label in test_set.labels),
        decisions=thresholds and _assess_decisions(defective, scores, thresholds, pixels),
    )


def _assess_label(
    label: str, test_set: TestSet, scores: Float64Array, thresholds: Thresholds | None, pixels: PixelScores
) -> LabelReport:
    labels = np.array([sample.label for sample in test_set.samples])
    chosen, defect = labels == label, label != GOOD
    versus_good = chosen | (labels == GOOD)
    counts, curve = None, pixels.curve(label) if defect else None
    if thresholds:
        counts = count_decisions(
            np.full(chosen.sum(), defect), scores[chosen], thresholds.score, thresholds.review_from
        )
    return LabelReport(
        label=label,
        images=int(chosen.sum()),
        image_auroc=image_auroc(chosen[versus_good], scores[versus_good]) if defect else None,
        image_ap=image_ap(chosen[versus_good], scores[versus_good]) if defect else None,
        failed=counts and counts.failed,
        reviewed=counts and counts.good_reviewed + counts.defective_reviewed,
        escape_rate=counts and counts.escape_rate,
        escape_interval=counts and counts.escape_interval,
        pixel_images=pixels.images(label),
        regions=pixels.regions(label),
        pixel_auroc=curve.auroc() if curve else None,
        pixel_ap=curve.average_precision() if curve else None,
        aupro=curve.aupro(AUPRO_LIMIT) if curve else None,
        aupro_005=curve.aupro(AUPRO_STRICT_LIMIT) if curve else None,
    )


def _assess_decisions(
    defective: BoolArray, scores: Float64Array, thresholds: Thresholds, pixels: PixelScores
) -> DecisionReport:
    counts = count_decisions(defective, scores, thresholds.score, thresholds.review_from)
    at_map_threshold = pixels.counts(thresholds.map_value)
    return DecisionReport(
        score_threshold=thresholds.score,
        review_from=thresholds.review_from,
        target_false_reject_rate=thresholds.target_false_reject_rate,
        false_rejects=counts.false_rejects,
        false_reject_rate=counts.false_reject_rate,
        false_reject_interval=counts.false_reject_interval,
        escapes=counts.escapes,
        escape_rate=counts.escape_rate,
        escape_interval=counts.escape_interval,
        good_reviewed=counts.good_reviewed,
        defective_reviewed=counts.defective_reviewed,
        map_threshold=thresholds.map_value,
        iou=at_map_threshold.iou if at_map_threshold else None,
        mean_iou_two_class=at_map_threshold.mean_iou_two_class if at_map_threshold else None,
        pro=at_map_threshold.pro if at_map_threshold else None,
        pixel_fpr=at_map_threshold.fpr if at_map_threshold else None,
    )
