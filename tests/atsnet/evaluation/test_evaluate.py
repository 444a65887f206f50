import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from atsnet.calibration import calibrate, save_calibration
from atsnet.config import Config
from atsnet.data.layout import DataError, Dataset, Sample, file_digests, find_dataset
from atsnet.evaluation.assessment import EvaluationError, EvaluationReport
from atsnet.evaluation.evaluate import evaluate
from atsnet.evaluation.report import report_table
from atsnet.training.run_directory import BackboneSource, DataSource, RunRecord, TrainedRun

GOOD_LEVELS = (40, 60, 80, 100)
DENT_LEVELS = (90, 120)
STAIN_LEVELS = (200, 220)


class _Brightest(nn.Module):
    """The map is the brightness in 0..1 and the score its highest value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        maps = nn.functional.avg_pool2d(frames[..., 0].float() / 255, 4) * (frames[:, ::4, ::4, 1] > 0)
        return maps.amax(dim=(1, 2)), maps


def _image(level: int) -> np.ndarray:
    """A grey part, twice as high as wide, with a spot of the given level at (40, 16)."""
    image = np.full((128, 64), 20, np.uint8)
    image[32:48, 8:24] = level
    return image


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    mask = np.where(_image(255) == 255, 255, 0).astype(np.uint8)
    _write(folder / "train/good/0.png", _image(50))
    for name, levels in (("good", GOOD_LEVELS), ("dent", DENT_LEVELS), ("stain", STAIN_LEVELS)):
        for index, level in enumerate(levels):
            _write(folder / f"test/{name}/{index}.png", _image(level))
            if name != "good":
                _write(folder / f"ground_truth/{name}/{index}_mask.png", mask)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> TrainedRun:
    directory = tmp_path / "run"
    directory.mkdir()
    config = Config.model_validate(
        {"input": {"height": 64, "width": 64, "color": "mono"}, "network": {"window": 4, "grid": 4}}
    )
    record = RunRecord(
        atsnet_version="0",
        torch_version="0",
        backbone=BackboneSource(name="none", sha256="", licence="", origin=""),
        data=DataSource(layout="mvtec", root="parts", train_images=(), holdout_images=(), sha256=""),
        losses={},
        seconds=0.0,
    )
    return TrainedRun(directory, _Brightest(), config, record)  # type: ignore[arg-type]


def _calibrate(run: TrainedRun, level: int) -> None:
    """Make a spot of `level` the threshold."""
    scores = np.full(30, level / 255)
    save_calibration(run.directory, calibrate(scores, scores, run.config.calibration))


def test_figures_without_calibration(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    report = evaluate(run, find_dataset(root), tmp_path / "new" / "out", batch_size=3)
    assert report.dataset == "parts"
    assert report.images == report.pixel_images == 8
    assert report.regions == 4
    assert report.without_mask == ()
    # Of 16 pairs of good and defective images, only (good 100, dent 90) is in the wrong order.
    assert report.image_auroc == pytest.approx(15 / 16)
    assert [(row.label, row.images, row.image_auroc, row.failed) for row in report.labels] == [
        ("good", 4, None, None),
        ("dent", 2, pytest.approx(7 / 8), None),
        ("stain", 2, 1.0, None),
    ]
    assert report.decisions is None
    # At the original resolution; some spots of good parts are brighter than a dent.
    assert report.aupro is not None
    assert 0.9 < report.aupro < 1


def test_figures_with_calibration(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    _calibrate(run, 95)
    report = evaluate(run, find_dataset(root), tmp_path / "out")
    assert report.decisions is not None
    assert report.decisions.score_threshold == pytest.approx(95 / 255)
    assert (report.decisions.false_rejects, report.decisions.false_reject_rate) == (1, 0.25)
    assert (report.decisions.escapes, report.decisions.escape_rate) == (1, 0.25)
    assert [(row.label, row.failed, row.escape_rate) for row in report.labels] == [
        ("good", 1, None),
        ("dent", 1, 0.5),
        ("stain", 2, 0.0),
    ]
    # Found at the threshold are three of the four spots and one of a good part, less their rims.
    assert report.decisions.pro is not None
    assert 0.5 < report.decisions.pro < 3 / 4
    assert report.decisions.iou is not None
    assert 0.4 < report.decisions.iou < 3 / 5
    assert report.cost is not None
    assert report.cost.latency_ms > 0


def test_what_the_threshold_rests_on_is_in_the_report(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    evaluate(run, find_dataset(root), tmp_path / "out")
    assert "| threshold | none yet |" in (tmp_path / "out" / "report.md").read_text()
    scores = np.full(30, 0.5)
    calibration = calibrate(scores, scores, run.config.calibration)
    save_calibration(run.directory, calibration.model_copy(update={"further_images": {"a.png": "0", "b.png": "1"}}))
    evaluate(run, find_dataset(root), tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert "| threshold | 30 good images, 2 of them given with --good; exponential tail of 30 normal scores" in report
    assert f"| calibration warned | {calibration.warnings[0]}" in report


def test_the_advice_where_nothing_can_be_tested_fits_the_layout(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "test")
    shutil.rmtree(root / "ground_truth")
    with pytest.raises(EvaluationError, match="they lie in test/good and test/<defect>"):
        evaluate(run, find_dataset(root), tmp_path / "out")
    with pytest.raises(EvaluationError, match=r"no test images: all of it is taken for good images .* into good/"):
        evaluate(run, find_dataset(root / "train"), tmp_path / "out")


def test_test_images_that_the_run_knows_are_pointed_out(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    for source, copy in (("train/good/0.png", "good/copy.png"), ("test/good/2.png", "good/again.png")):
        (root / "test" / copy).write_bytes((root / source).read_bytes())
    digests = file_digests(find_dataset(root).train)
    (further,) = file_digests([Sample(root / "test/good/2.png", "")])
    held_out = "f" * 64
    data = run.record.data.model_copy(
        update={"train_images": ("0",), "holdout_images": ("1",), "image_sha256": (*digests, held_out)}
    )
    run = replace(run, record=run.record.model_copy(update={"data": data}))
    scores = np.full(30, 0.5)
    calibration = calibrate(scores, scores, run.config.calibration)
    save_calibration(run.directory, calibration.model_copy(update={"further_images": {"2.png": further}}))
    report = evaluate(run, find_dataset(root), tmp_path / "out")
    trained, calibrated = report.warnings
    assert "of 10 test images 1 is among those that the run was trained on" in trained
    assert "test/good/copy.png" in trained
    assert "2 are among those that it was calibrated with (--good)" in calibrated
    assert "test/good/2.png, test/good/again.png" in calibrated
    written = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert f"Warning: {trained}" in written


@pytest.mark.parametrize("calibrated", [False, True])
def test_what_is_written(run: TrainedRun, root: Path, tmp_path: Path, calibrated: bool) -> None:
    if calibrated:
        _calibrate(run, 95)
    out = tmp_path / "out"
    report = evaluate(run, find_dataset(root), out)
    pictures = ["false_rejects.png", "misses.png", "pro.png", "roc.png", "scores.png", "typical.png"]
    others = ["metrics.json", "report.html", "report.md", "scores.csv"]
    assert sorted(path.name for path in out.iterdir()) == sorted(pictures + others)
    assert EvaluationReport.model_validate_json((out / "metrics.json").read_text()) == report
    for name in pictures:
        picture = cv2.imread(str(out / name))
        assert picture is not None
        assert picture.std() > 5
        assert f"]({name})" in (out / "report.md").read_text()
    assert (out / "report.html").read_text().count("data:image/png;base64,") == len(pictures)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [sample.name for sample in find_dataset(root).test]
    truth = [row["label"] != "good" for row in rows]
    assert roc_auc_score(truth, [float(row["score"]) for row in rows]) == report.image_auroc
    for row in rows:
        if calibrated:
            assert float(row["calibrated_score"]) == pytest.approx(float(row["score"]) / (95 / 255))
        else:
            assert row["calibrated_score"] == ""


def test_images_without_a_usable_mask_count_for_image_scores_only(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    (root / "ground_truth/dent/0_mask.png").unlink()
    _write(root / "ground_truth/stain/1_mask.png", np.zeros((128, 64), np.uint8))
    report = evaluate(run, find_dataset(root), tmp_path / "out")
    assert report.without_mask == ("test/dent/0.png", "test/stain/1.png")
    assert (report.images, report.pixel_images, report.regions) == (8, 6, 2)
    assert report.image_auroc == pytest.approx(15 / 16)
    # What is left of the defects outshines every pixel of the good parts, except between pixels at the spots' rims.
    assert report.aupro is not None
    assert report.aupro > 0.95


def test_pictures_of_an_earlier_evaluation_do_not_stay(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    dataset = find_dataset(root)
    evaluate(run, dataset, tmp_path / "out")
    evaluate(run, replace(dataset, test=tuple(s for s in dataset.test if s.defective)), tmp_path / "out")
    assert (tmp_path / "out" / "misses.png").exists()
    assert not (tmp_path / "out" / "false_rejects.png").exists()
    assert "false_rejects.png" not in (tmp_path / "out" / "report.md").read_text()


def test_a_set_of_good_images_only(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    dataset = find_dataset(root)
    good = replace(dataset, test=tuple(sample for sample in dataset.test if not sample.defective))
    _calibrate(run, 95)
    report = evaluate(run, good, tmp_path / "out")
    assert report.image_auroc is None
    assert report.aupro is None
    assert report.decisions is not None
    assert report.decisions.escape_rate is None
    assert report.decisions.false_reject_rate == 0.25
    assert '"image_auroc": null' in (tmp_path / "out" / "metrics.json").read_text()
    assert not (tmp_path / "out" / "misses.png").exists()
    assert (tmp_path / "out" / "false_rejects.png").exists()
    assert "not defined" in (tmp_path / "out" / "report.md").read_text()


def test_a_set_of_defective_images_only(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    dataset = find_dataset(root)
    bad = replace(dataset, test=tuple(sample for sample in dataset.test if sample.defective))
    report = evaluate(run, bad, tmp_path / "out")
    assert report.image_auroc is None
    assert report.aupro == pytest.approx(1, abs=0.05)
    assert [row.image_auroc for row in report.labels] == [None, None]


def test_one_constant_image(run: TrainedRun, tmp_path: Path) -> None:
    _write(tmp_path / "flat/train/good/0.png", np.full((5, 1), 7, np.uint8))
    _write(tmp_path / "flat/test/good/0.png", np.full((5, 1), 7, np.uint8))
    _write(tmp_path / "flat/test/$odd_名$/0.png", np.full((5, 1), 7, np.uint8))
    report = evaluate(run, find_dataset(tmp_path / "flat"), tmp_path / "out")
    assert report.image_auroc == 0.5
    assert report.aupro is None
    assert report.without_mask == ("test/$odd_名$/0.png",)


def test_nothing_to_evaluate_on(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="parts has no test images"):
        evaluate(run, Dataset(root, "folder", find_dataset(root).train), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_masks_that_do_not_fit_stop_it_before_anything_is_written(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    _write(root / "ground_truth/dent/0_mask.png", np.zeros((64, 128), np.uint8))
    with pytest.raises(DataError, match=r"dent/0_mask\.png: the mask has 128x64 pixels"):
        evaluate(run, find_dataset(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_shows_what_the_report_says(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    (root / "ground_truth/dent/0_mask.png").unlink()
    _calibrate(run, 95)
    report = evaluate(run, find_dataset(root), tmp_path / "out")
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(report_table(report))
    text = console.export_text()
    lines = text.splitlines()
    for expected in (
        "parts: 8 test images",
        "image AUROC 93.75%  AP 95.00%  F1-max 88.89%",
        "false rejects 25.00%, 95 % interval 0.6% to 80.6% (target 1.00%)",
        "escapes 25.00%, 95 % interval 0.6% to 80.6%",
        "1 defective image without a mask, for image figures only",
    ):
        assert expected in [line.strip() for line in lines]
    (dent,) = [line for line in lines if "dent" in line]
    cells = [cell.strip() for cell in dent.split("│")[1:-1]]
    assert [*cells[:3], cells[5]] == ["dent", "2", "87.50%", "1 (50.0%)"]


def test_the_table_of_a_run_without_a_threshold(run: TrainedRun, root: Path, tmp_path: Path) -> None:
    dataset = find_dataset(root)
    good = replace(dataset, test=tuple(sample for sample in dataset.test if not sample.defective))
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(report_table(evaluate(run, good, tmp_path / "out")))
    text = console.export_text()
    assert "image AUROC not defined" in text
    assert "no threshold yet" in text
