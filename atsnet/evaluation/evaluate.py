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
from rich.console import Group
from rich.table import Table
from rich.text import Text

from atsnet.calibration import load_calibration
from atsnet.data.layout import GOOD, Dataset
from atsnet.evaluation import pictures
from atsnet.evaluation.assessment import EvaluationReport, Thresholds, assess, load_test_set
from atsnet.evaluation.metrics import Float64Array
from atsnet.evaluation.scoring import score_frames
from atsnet.progress import Reporter, silent
from atsnet.training.run_directory import TrainedRun

METRICS_NAME: Final = "metrics.json"
SCORES_NAME: Final = "scores.csv"


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
    test_set = load_test_set(dataset, run.config.input, report)
    calibration = load_calibration(run.directory)
    raw = score_frames(run.network, test_set.frames.pixels, batch_size=batch_size, report=report)
    result = assess(test_set, raw, Thresholds.of(calibration) if calibration else None, report)
    samples, defective, scores = test_set.samples, test_set.defective, raw.scores.astype(np.float64)
    threshold = calibration.score_threshold if calibration else None
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS_NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _write_scores(out / SCORES_NAME, dataset, scores, threshold)
    report("drawing", 0, 3)
    pictures.draw_roc(out / pictures.ROC_NAME, defective, scores, threshold)
    report("drawing", 1, 3)
    pictures.draw_scores(out / pictures.SCORES_NAME, [sample.label for sample in samples], scores, threshold)
    report("drawing", 2, 3)
    unit = calibration.map_threshold if calibration else pictures.unit_without_calibration(raw.maps, ~defective)
    scene = pictures.Scene(
        samples, scores, raw.maps, test_set.frames, test_set.masks, test_set.geometry, unit, threshold
    )
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
        f"AUPRO@0.3 {_percent(report.aupro)} ({report.regions} regions)",
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


def _write_scores(path: Path, dataset: Dataset, scores: Float64Array, threshold: float | None) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "label", "score", "calibrated_score"))
        for sample, score in zip(dataset.test, scores, strict=True):
            calibrated = "" if threshold is None else f"{score / threshold:.9g}"
            writer.writerow((sample.name, sample.label, f"{score:.9g}", calibrated))


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2%}"
