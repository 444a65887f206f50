from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from serving import GOOD, running, wait_until, write_bundle

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import load_bundle
from service.runtimes.fake import FakeRuntime
from service.self_test import SelfTestError, run_self_test
from service.settings import Settings


def sample_field(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["golden_samples"][1][name] = value

    return change


class Offset(FakeRuntime):
    """Answers a little more than it should."""

    def __init__(self, score: float = 0.0, cell: float = 0.0) -> None:
        super().__init__()
        self.offsets = (score, cell)

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        scores, maps = super().run(frames)
        maps[:, 0, 0] += np.float32(self.offsets[1])
        return scores + np.float32(self.offsets[0]), maps


def self_test(tmp_path: Path, runtime: FakeRuntime, change: Callable[[dict[str, Any]], None] = lambda _: None) -> float:
    bundle = load_bundle(write_bundle(tmp_path / "weights", change=change))
    runtime.load(bundle)
    report = run_self_test(bundle, runtime)
    assert report.samples == 2
    return report.largest_score_difference


def test_passes_with_the_difference_it_found(tmp_path: Path) -> None:
    assert self_test(tmp_path, Offset(score=0.001)) == pytest.approx(0.001 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("runtime", "change", "message"),
    [
        (
            FakeRuntime(),
            sample_field("score", 6.3),
            r"samples/crack\.png: score 6\.25, expected 6\.3.*0\.001 is allowed",
        ),
        (FakeRuntime(), sample_field("verdict", "pass"), r"verdict fail, expected pass"),
        (FakeRuntime(), sample_field("anomaly_map", "samples/good.npy"), r"map differs, most at row \d+, column \d+"),
        (FakeRuntime(), sample_field("image", "model.onnx"), r"not a JPEG"),
        (Offset(score=0.1), lambda _: None, r"samples/good\.png: score 2\.1, expected 2"),
        (Offset(score=float("nan")), lambda _: None, "nan"),
        (Offset(cell=0.05), lambda _: None, "row 0, column 0"),
        (Offset(cell=float("nan")), lambda _: None, "row 0, column 0: nan"),
    ],
)
def test_refuses_what_was_not_validated(
    tmp_path: Path, runtime: FakeRuntime, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(SelfTestError, match=message):
        self_test(tmp_path, runtime, change)


def test_scores_next_to_zero_are_measured_against_a_tenth_of_the_threshold(tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["golden_samples"][0]["score"] = 0.004

    class NearZero(FakeRuntime):
        def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
            scores, maps = super().run(frames)
            return np.where(scores == 2, np.float32(0.00402), scores), maps

    assert self_test(tmp_path, NearZero(), change) == pytest.approx(0.00002 / 0.4, rel=0.01)


def test_runtime_that_fails(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    runtime.fail_next(RuntimeError("no memory"))
    with pytest.raises(SelfTestError, match="the runtime failed: no memory"):
        self_test(tmp_path, runtime)


def test_service_that_fails_it_never_becomes_ready(settings: Settings) -> None:
    with running(settings, Offset(score=1.0), until_ready=False) as line:
        wait_until(lambda: line.station.state == "failed")
        assert line.http.get("/livez").status_code == 200
        for response in (line.http.get("/readyz"), line.post(GOOD)):
            assert (response.status_code, response.json()["code"]) == (503, 40)
            assert "samples/good.png: score 3, expected 2" in response.json()["detail"]


def test_altered_file_is_refused(settings: Settings) -> None:
    sample = settings.weights / settings.bundle / "samples" / "good.png"
    sample.write_bytes(cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes())
    with running(settings, FakeRuntime(), until_ready=False) as line:
        wait_until(lambda: line.station.state == "failed")
        assert "is not the file that was validated" in line.http.get("/readyz").json()["detail"]
