"""From procedural grains to verdicts, by the commands alone."""

import csv
import json
from pathlib import Path

import cv2
import pytest
from invoking import atsnet

from atsnet.calibration import Calibration
from atsnet.config import Config
from model_export.bundle import load_bundle


def test_train_leaves_a_finished_run_and_a_table(shop: Path, grains: Path, backbone: Path, config: Path) -> None:
    result = atsnet(
        "train", grains, "--out", shop / "other", "--backbone", backbone, "--config", config, "--seed", 5,
        "--set", "training.stage2_steps=2", "--set", "network.student_width=16",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "7 good images" in result.stdout
    assert "random (CC0-1.0)" in result.stdout
    assert "stage 2" not in result.stdout
    assert "stage 2 (student): 2/2" in result.stderr
    assert "stage 3 (evidence head): 7/7" in result.stderr
    resolved = Config.model_validate_json((shop / "other" / "config.json").read_bytes())
    assert (resolved.training.seed, resolved.training.stage2_steps, resolved.training.stage1_steps) == (5, 2, 6)
    assert resolved.network.student_width == 16
    assert (shop / "other" / "model.safetensors").is_file()
    assert f"how it went, with the losses: {shop / 'other' / 'training.html'}" in result.stderr
    assert f"next: atsnet calibrate {shop / 'other'} {grains}\n" in result.stderr
    report = (shop / "other" / "training.md").read_text().replace("\\", "")
    assert "| training.stage2_steps | 2 |" in report
    assert "| images | grains (laid out as MVTec AD): 7 good images |" in report


def test_color_follows_the_images_unless_it_is_said(run: Path) -> None:
    assert json.loads((run / "config.json").read_text())["input"]["color"] == "mono"


def test_calibrate_prints_the_thresholds_alone_on_standard_output(calibrated: Path, grains: Path) -> None:
    result = atsnet("calibrate", calibrated, grains, "--review-rate", 0.4, "--json")
    assert result.exit_code == 0
    printed = Calibration.model_validate_json(result.stdout)
    assert printed == Calibration.model_validate_json((calibrated / "calibration.json").read_bytes())
    assert printed.normal_images == 5
    assert (printed.target_false_reject_rate, printed.target_review_rate) == (0.01, 0.4)
    assert "warning: 5 normal images cannot promise" in result.stderr


def test_evaluate_prints_what_it_writes(evaluated: Path, grains: Path, tmp_path: Path) -> None:
    result = atsnet("evaluate", evaluated, grains, "--json", "--out", tmp_path / "figures")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "figures" / "metrics.json").read_text())
    earlier = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    assert {**printed, "cost": None} == {**earlier, "cost": None}  # all but the time that it took
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "metrics.json", "report.md", "report.html", "scores.csv", "roc.png", "pro.png", "scores.png",
        "misses.png", "false_rejects.png", "typical.png",
    }  # fmt: skip


def test_exported_bundle_is_whole_and_says_how_it_was_evaluated(bundle: Path, evaluated: Path) -> None:
    manifest = load_bundle(bundle).manifest
    assert (manifest.name, manifest.version, manifest.product) == ("tiny", "1", "tec-grain")
    assert manifest.metrics == json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    assert manifest.backbone["licence"] == "CC0-1.0"
    parity = json.loads((bundle / "parity.json").read_text())
    assert parity["frames"] == 9 + 5  # the test images and the held-out ones


def test_half_precision_and_the_model_repository_come_along(bundle: Path, shop: Path) -> None:
    assert set(load_bundle(bundle).manifest.graphs) == {"float32", "float16"}
    served = shop / "models" / "tiny" / "1" / "model.onnx"
    assert served.read_bytes() == load_bundle(bundle).graph("float16").read_bytes()
    assert (shop / "models" / "tiny" / "config.pbtxt").exists()


def test_published_version_is_not_replaced(bundle: Path, evaluated: Path, grains: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    names = ("--name", "tiny", "--version", "1", "--product", "tec-grain", "--weights", bundle.parent.parent)
    result = atsnet("export", evaluated, grains, *names)
    assert result.exit_code == 4
    assert "choose another version" in result.stderr
    assert (bundle / "manifest.json").read_bytes() == before


def test_local_inspection_scores_as_the_evaluation(bundle: Path, evaluated: Path, grains: Path) -> None:
    with (evaluated / "evaluation" / "scores.csv").open() as file:
        expected = {row["name"]: float(row["calibrated_score"]) for row in csv.DictReader(file)}
    result = atsnet("inspect", grains / "test", "--local", "--bundle", bundle, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    scores = {Path(row["file"]).relative_to(grains).as_posix(): row["score"] for row in rows}
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-4)
    review_from = load_bundle(bundle).manifest.calibration.review_score
    assert review_from is not None
    assert [row["verdict"] for row in rows] == [
        "fail" if row["score"] > 1 else "review" if row["score"] >= review_from else "pass" for row in rows
    ]
    assert "review" in {row["verdict"] for row in rows}
    assert result.exit_code == (10 if any(row["verdict"] != "pass" for row in rows) else 0)


def test_service_and_local_bundle_judge_alike(bundle: Path, service_url: str, grains: Path, tmp_path: Path) -> None:
    def inspect(*how: object, out: Path) -> list[dict[str, object]]:
        result = atsnet("inspect", grains / "test", *how, "--json", "--out", out)
        return [json.loads(line) for line in result.stdout.splitlines()]

    local = inspect("--local", "--bundle", bundle, out=tmp_path / "local")
    posted = inspect("--url", service_url, "--station", "s1", "--lot", "L7", out=tmp_path / "posted")
    assert len(local) == len(posted) == 9
    for here, there in zip(local, posted, strict=True):
        same = ("file", "verdict", "regions", "model", "threshold")
        assert [here[key] for key in same] == [there[key] for key in same]
        assert here["score"] == pytest.approx(there["score"], abs=1e-6)
        assert there["id"]
        pictures = [cv2.imread(str(row["overlay"])) for row in (here, there)]
        assert pictures[0].shape == (64, 64, 3)
        assert (pictures[0] == pictures[1]).all()
    assert (tmp_path / "posted" / "crack" / "000_overlay.png").is_file()
