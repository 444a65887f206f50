"""Evaluate a trained run on a test set: figures, scores and pictures in a folder.

metrics.json    `EvaluationReport`
scores.csv      name, label, raw score, calibrated score
roc.png         ROC curve over images
scores.png      histogram of the scores of each label
examples.png    images, heatmaps and masks of what went wrong, and of hits
"""

import csv
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Group
from rich.table import Table
from rich.text import Text

from atsnet.calibration import load_calibration
from atsnet.data.frames import FrameSet, load_frames, load_masks
from atsnet.data.layout import GOOD, Dataset
from atsnet.evaluation import pictures
from atsnet.evaluation.metrics import BoolArray, Float64Array, PixelScores, count_decisions, image_auroc
from atsnet.evaluation.scoring import RawScores, score_frames
from atsnet.imaging import Float32Array, InputGeometry, map_to_image
from atsnet.progress import Reporter, silent
from atsnet.training.run_directory import TrainedRun

METRICS_NAME: Final = "metrics.json"
SCORES_NAME: Final = "scores.csv"
AUPRO_LIMIT: Final = 0.3


class EvaluationError(Exception):
    """There is nothing to evaluate on; the message says what is missing."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelReport(_Model):
    """One kind of test images."""

    label: str
    """`good` or the name of a defect."""
    images: int
    image_auroc: float | None
    """Of this defect against all good test images; None for good ones, or where there are none."""
    failed: int | None
    """Images above the threshold; None without calibration."""


class DecisionReport(_Model):
    """What the run's threshold does to the test set."""

    score_threshold: float
    """Raw score above which an image fails."""
    target_false_reject_rate: float
    false_rejects: int
    """Good images that fail."""
    false_reject_rate: float | None
    escapes: int
    """Defective images that pass."""
    escape_rate: float | None


class EvaluationReport(_Model):
    """Figures of one run on one test set; None where a figure is not defined."""

    dataset: str
    images: int
    image_auroc: float | None
    aupro: float | None
    """Area under the per-region overlap up to a false-positive rate of `aupro_limit`, at original resolution."""
    aupro_limit: float
    pixel_images: int
    """Images that `aupro` is over."""
    regions: int
    """Connected defects in their masks."""
    without_mask: tuple[str, ...]
    """Defective images without a mask or with an empty one: they count for image scores only."""
    labels: tuple[LabelReport, ...]
    decisions: DecisionReport | None
    """None where the run is not calibrated."""


def evaluate(
    run: TrainedRun, dataset: Dataset, out: Path, *, batch_size: int = 16, report: Reporter = silent
) -> EvaluationReport:
    """Score the test images with the trained network, and write figures and pictures to `out`.

    The threshold is that of the run's `calibration.json`, if there is one; nothing is learned from the test images.

    Args:
        run: A finished run.
        dataset: Its `test` is scored.
        out: Folder to write to; made if missing, files of the same names are replaced.
        batch_size: Images at a time.
        report: Told how far it is.

    Raises:
        EvaluationError: The data set has no test images.
        DataError: Images or masks cannot be used.
        CalibrationError: The run's calibration is damaged.
    """
    samples = dataset.test
    if not samples:
        raise EvaluationError(
            f"{dataset.root} has no test images; they lie in test/good and test/<defect> beside train/good"
        )
    calibration = load_calibration(run.directory)
    geometry = run.config.input
    frames = load_frames(samples, geometry, progress=lambda done, total: report("reading images", done, total))
    masks = [
        None if sample.defective and mask is not None and not mask.any() else mask
        for sample, mask in zip(samples, load_masks(samples, frames.sizes), strict=True)
    ]
    raw = score_frames(run.network, frames.pixels, batch_size=batch_size, report=report)
    pixels = _collect_pixels(raw, frames, masks, geometry, report)
    threshold = calibration.score_threshold if calibration else None
    defective, scores = np.array([sample.defective for sample in samples]), raw.scores.astype(np.float64)
    decisions = None
    if calibration:
        counts = count_decisions(defective, scores, calibration.score_threshold)
        decisions = DecisionReport(
            score_threshold=calibration.score_threshold,
            target_false_reject_rate=calibration.target_false_reject_rate,
            false_rejects=counts.false_rejects,
            false_reject_rate=counts.false_reject_rate,
            escapes=counts.escapes,
            escape_rate=counts.escape_rate,
        )
    result = EvaluationReport(
        dataset=dataset.root.resolve().name,
        images=len(samples),
        image_auroc=image_auroc(defective, scores),
        aupro=pixels.aupro(AUPRO_LIMIT),
        aupro_limit=AUPRO_LIMIT,
        pixel_images=pixels.images,
        regions=pixels.regions,
        without_mask=tuple(sample.name for sample, mask in zip(samples, masks, strict=True) if mask is None),
        labels=_by_label(np.array([sample.label for sample in samples]), scores, threshold),
        decisions=decisions,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS_NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _write_scores(out / SCORES_NAME, dataset, scores, threshold)
    report("drawing", 0, 3)
    pictures.draw_roc(out / pictures.ROC_NAME, defective, scores, threshold)
    report("drawing", 1, 3)
    pictures.draw_scores(out / pictures.SCORES_NAME, [sample.label for sample in samples], scores, threshold)
    report("drawing", 2, 3)
    unit = calibration.map_threshold if calibration else pictures.unit_without_calibration(raw.maps, ~defective)
    scene = pictures.Scene(samples, scores, raw.maps, frames, masks, geometry, unit, threshold)
    pictures.draw_examples(out / pictures.EXAMPLES_NAME, scene)
    report("drawing", 3, 3)
    return result


def report_table(report: EvaluationReport) -> Group:
    """The report as a table with the figures of the whole set below it, for `rich.print`."""
    table = Table(title=f"{report.dataset}: {report.images} test images", title_justify="left")
    table.add_column("label")
    for heading in ("images", "image AUROC", "failed"):
        table.add_column(heading, justify="right")
    for row in report.labels:
        failed = "" if row.failed is None else f"{row.failed} ({row.failed / row.images:.1%})"
        auroc = "" if row.label == GOOD else _percent(row.image_auroc)
        table.add_row(Text(row.label), str(row.images), auroc, failed)
    lines = [
        f"image AUROC {_percent(report.image_auroc)}",
        f"AUPRO@{report.aupro_limit:g} {_percent(report.aupro)} ({report.regions} regions)",
    ]
    if report.decisions:
        rejects, escapes = _percent(report.decisions.false_reject_rate), _percent(report.decisions.escape_rate)
        lines.append(f"false rejects {rejects} (target {report.decisions.target_false_reject_rate:.2%})")
        lines.append(f"escapes {escapes}")
    else:
        lines.append("no threshold yet: calibrate the run")
    if report.without_mask:
        lines.append(f"{len(report.without_mask)} defective images have no mask and are not in AUPRO")
    return Group(table, Text("\n".join(lines)))


def _collect_pixels(
    raw: RawScores, frames: FrameSet, masks: list[BoolArray | None], geometry: InputGeometry, report: Reporter
) -> PixelScores:
    pixels = PixelScores()
    for index, mask in enumerate(masks):
        if mask is not None:
            pixels.add(_at_original_size(raw.maps[index], frames, index, geometry), mask)
        report("collecting pixel scores", index + 1, len(masks))
    return pixels


def _at_original_size(anomaly_map: Float32Array, frames: FrameSet, index: int, geometry: InputGeometry) -> Float32Array:
    height, width = frames.sizes[index]
    return map_to_image(anomaly_map, frames.placements[index], geometry, height, width)


def _by_label(labels: np.ndarray, scores: Float64Array, threshold: float | None) -> tuple[LabelReport, ...]:
    """Good images first, then the defects by name."""
    reports = []
    for label in sorted(set(labels.tolist()), key=lambda label: (label != GOOD, label)):
        chosen = labels == label
        versus_good = chosen | (labels == GOOD)
        reports.append(
            LabelReport(
                label=label,
                images=int(chosen.sum()),
                image_auroc=image_auroc(chosen[versus_good], scores[versus_good]) if label != GOOD else None,
                failed=None if threshold is None else int((scores[chosen] > threshold).sum()),
            )
        )
    return tuple(reports)


def _write_scores(path: Path, dataset: Dataset, scores: Float64Array, threshold: float | None) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "label", "score", "calibrated_score"))
        for sample, score in zip(dataset.test, scores, strict=True):
            calibrated = "" if threshold is None else f"{score / threshold:.9g}"
            writer.writerow((sample.name, sample.label, f"{score:.9g}", calibrated))


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2%}"
