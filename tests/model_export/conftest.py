from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_network import CONFIG, CREATED, read_pixels, sane_network

from atsnet.calibration import Calibration
from atsnet.data.grains import render_grain
from atsnet.data.layout import Sample
from atsnet.training.run_directory import BackboneSource, DataSource, RunRecord, TrainedRun
from model_export.exporter import Exported, Identity, export_bundle


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    root = tmp_path_factory.mktemp("grains")
    found = []
    for index, defect in enumerate((None, None, None, None, "crack", "chip", "pit")):
        name = f"{defect or 'good'}_{index}.png"
        image = render_grain(5, defect, 128, index=index).image
        if defect:  # an untrained network takes a plain difference to see anything
            image = cv2.GaussianBlur(255 - image, (0, 0), 1 + index)
        cv2.imwrite(str(root / name), image)
        found.append(Sample(root / name, f"test/{name}", defect or "good"))
    return found


@pytest.fixture(scope="session")
def run(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    good = [sample for sample in samples if not sample.defective]
    network = sane_network(CONFIG, read_pixels(good, CONFIG.input))
    record = RunRecord(
        atsnet_version="0.0.test",
        torch_version="0.0",
        backbone=BackboneSource(name="random", sha256="0" * 64, licence="CC0-1.0", origin="a test"),
        data=DataSource(
            layout="mvtec", root="grains", train_images=("a.png", "b.png"), holdout_images=("c.png",), sha256="1" * 64
        ),
        losses={"stage1": 0.5},
        seconds=1.5,
    )
    return TrainedRun(tmp_path_factory.mktemp("run"), network, CONFIG, record)


@pytest.fixture(scope="session")
def calibration(run: TrainedRun, samples: list[Sample]) -> Calibration:
    """A threshold in the widest gap between scores, so that there are both verdicts, none of them close."""
    with torch.no_grad():
        scores = run.network(torch.from_numpy(read_pixels(samples, run.config.input)))[0].numpy()
    ordered = np.sort(scores)
    widest = int(np.diff(ordered[2:]).argmax()) + 2
    threshold = float(ordered[widest] + ordered[widest + 1]) / 2
    return Calibration(
        score_threshold=threshold,
        map_threshold=1.25 * threshold,
        target_false_reject_rate=0.01,
        normal_images=4,
        method="the widest gap",
        attainable_rate=0.2,
        false_reject_interval=(0.0, 0.6),
        median_score=float(np.median(scores)),
        region_share=0.0,
        warnings=("four images are few",),
    )


@pytest.fixture(scope="session")
def exported(
    run: TrainedRun, calibration: Calibration, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    return export_bundle(
        replace(run),
        calibration,
        Identity("tec-test", "1", "tec-grain"),
        weights_root=tmp_path_factory.mktemp("weights"),
        parity_samples=samples,
        golden_samples=samples,
        created=CREATED,
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights"
