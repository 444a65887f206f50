"""Evaluate a trained run on a test set: figures, scores, pictures and a report in a folder.

metrics.json         `EvaluationReport`
report.md            the figures and pictures for people
report.html          the same as one file that needs no other
scores.csv           name, label, raw score, calibrated score
roc.png              ROC curves over images
pro.png              PRO curves over pixels, where masks are known
scores.png           histogram of the scores of each label
misses.png           the defective images with the lowest scores
false_rejects.png    the good images with the highest scores
typical.png          the image with the median score of each label
"""

import csv
from pathlib import Path
from typing import Final

import numpy as np

from atsnet.calibration import Calibration, load_calibration
from atsnet.data.layout import Dataset, file_digests, listed
from atsnet.evaluation import charts, overlays
from atsnet.evaluation.assessment import (
    DecisionReport,
    EvaluationReport,
    TestSet,
    Thresholds,
    assess,
    collect_pixels,
    load_test_set,
)
from atsnet.evaluation.cost import measure_cost
from atsnet.evaluation.document import Picture
from atsnet.evaluation.metrics import Float64Array
from atsnet.evaluation.pixel_metrics import PixelScores
from atsnet.evaluation.report import report_html, report_markdown
from atsnet.evaluation.scoring import RawScores, score_frames
from atsnet.progress import Reporter, silent
from atsnet.training.run_directory import TrainedRun
from atsnet.wording import counted

METRICS_NAME: Final = "metrics.json"
MARKDOWN_NAME: Final = "report.md"
HTML_NAME: Final = "report.html"
SCORES_NAME: Final = "scores.csv"


def evaluate(
    run: TrainedRun, dataset: Dataset, out: Path, *, batch_size: int = 16, report: Reporter = silent
) -> EvaluationReport:
    """Score the test images with the trained network, and write figures and pictures to `out`.

    The thresholds are those of the run's `calibration.json`, if there is one; nothing is learned from the test images.

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
    calibration = load_calibration(run.directory)
    thresholds = Thresholds.of(calibration) if calibration else None
    test_set = load_test_set(dataset, run.config.input, report)
    raw = score_frames(run.network, test_set.frames.pixels, batch_size=batch_size, report=report)
    pixels = collect_pixels(test_set, raw.maps, report)
    figures = assess(test_set, raw, thresholds, report, pixels=pixels)
    result = figures.model_copy(
        update={"cost": measure_cost(run, test_set.frames.pixels), "warnings": _known_images(run, calibration, dataset)}
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS_NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    scores = raw.scores.astype(np.float64)
    _write_scores(out / SCORES_NAME, test_set, scores, result.decisions)
    drawn = _draw_charts(out, test_set, scores, pixels, result, report)
    shown = _draw_overlays(out, test_set, raw, thresholds, report)
    about = _about(run, calibration, dataset)
    (out / MARKDOWN_NAME).write_text(report_markdown(result, drawn, shown, about), encoding="utf-8")
    (out / HTML_NAME).write_text(report_html(result, drawn, shown, about, out), encoding="utf-8")
    return result


def _draw_charts(
    out: Path,
    test_set: TestSet,
    scores: Float64Array,
    pixels: PixelScores,
    result: EvaluationReport,
    report: Reporter,
) -> list[Picture]:
    report("drawing curves", 0, 3)
    charts.draw_roc(out / charts.ROC_NAME, test_set, scores, result)
    report("drawing curves", 1, 3)
    charts.draw_pro(out / charts.PRO_NAME, pixels, result)
    report("drawing curves", 2, 3)
    labels = [sample.label for sample in test_set.samples]
    charts.draw_scores(out / charts.SCORES_NAME, labels, scores, result.decisions)
    report("drawing curves", 3, 3)
    at_threshold = ", with what the deployed threshold does and its 95 % intervals" if result.decisions else ""
    return [
        Picture(charts.ROC_NAME, f"ROC over images{at_threshold}."),
        Picture(charts.PRO_NAME, "Per-region overlap over the false-positive rate of single pixels."),
        Picture(charts.SCORES_NAME, "How many images have which score, by label."),
    ]


def _draw_overlays(
    out: Path, test_set: TestSet, raw: RawScores, thresholds: Thresholds | None, report: Reporter
) -> list[Picture]:
    unit = thresholds.map_value if thresholds else overlays.unit_without_calibration(raw.maps, ~test_set.defective)
    scene = overlays.Scene(test_set, raw.scores.astype(np.float64), raw.maps, unit, thresholds)
    chosen = {
        overlays.MISSES_NAME: (
            overlays.worst_misses(scene),
            "Worst misses: the defective images with the lowest scores.",
        ),
        overlays.FALSE_REJECTS_NAME: (
            overlays.worst_false_rejects(scene),
            "Worst false rejects: the good images with the highest scores.",
        ),
        overlays.TYPICAL_NAME: (overlays.typical(scene), "The image with the median score of each label."),
    }
    pictures = []
    for done, (name, (indices, caption)) in enumerate(chosen.items()):
        report("drawing images", done, len(chosen))
        if indices:
            overlays.draw_overlays(out / name, scene, indices)
            pictures.append(Picture(name, caption, chart=False))
        else:  # not one of an earlier evaluation on other images
            (out / name).unlink(missing_ok=True)
    report("drawing images", len(chosen), len(chosen))
    return pictures


def _known_images(run: TrainedRun, calibration: Calibration | None, dataset: Dataset) -> tuple[str, ...]:
    """A warning for each use that the run has made of test images, found by their content."""
    data = run.record.data
    count = len(data.train_images)
    uses = {
        "that the run was trained on": data.image_sha256[:count],
        "that it held out for thresholds": data.image_sha256[count:],
        "that it was calibrated with (--good)": tuple(calibration.further_images.values()) if calibration else (),
    }
    digests = file_digests(dataset.test)
    warnings = []
    for use, known in uses.items():
        names = [sample.name for sample, digest in zip(dataset.test, digests, strict=True) if digest in set(known)]
        if names:
            verb = "is" if len(names) == 1 else "are"
            warnings.append(
                f"of {counted(len(dataset.test), 'test image')} {len(names)} {verb} among those {use}, "
                f"so the figures flatter: {listed(names, ', ')}"
            )
    return tuple(warnings)


def _threshold(calibration: Calibration | None) -> dict[str, str]:
    """What it rests on, and what the calibration warned of."""
    if calibration is None:
        return {"threshold": "none yet"}
    further = f", {len(calibration.further_images)} of them given with --good" if calibration.further_images else ""
    about = f"{counted(calibration.normal_images, 'good image')}{further}; {calibration.method}"
    return {
        "threshold": about,
        **({"calibration warned": "; ".join(calibration.warnings)} if calibration.warnings else {}),
    }


def _about(run: TrainedRun, calibration: Calibration | None, dataset: Dataset) -> dict[str, str]:
    record = run.record
    return {
        "run": run.directory.resolve().name,
        "test images": f"{dataset.name}, {counted(len(dataset.test), 'image')}",
        "learned from": f"{counted(len(record.data.train_images), 'good image')} of {record.data.root}; "
        f"{len(record.data.holdout_images)} more held out for thresholds",
        **_threshold(calibration),
        "trunk": record.backbone.name,
        "seed": str(run.config.training.seed),
        "trained with": f"atsnet {record.atsnet_version}, PyTorch {record.torch_version}",
    }


def _write_scores(path: Path, test_set: TestSet, scores: Float64Array, decisions: DecisionReport | None) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "label", "score", "calibrated_score"))
        for sample, score in zip(test_set.samples, scores, strict=True):
            calibrated = f"{score / decisions.score_threshold:.9g}" if decisions else ""
            writer.writerow((sample.name, sample.label, f"{score:.9g}", calibrated))
