from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness_graph import graph
from serving import DEFECTIVE, GOOD, MAP_SIZE, SCORE_THRESHOLD, running, wait_until, write_bundle

from model_export.bundle import load_bundle
from service.runtimes import onnx as onnx_runtime
from service.runtimes.fake import FakeRuntime
from service.runtimes.onnx import OnnxCpuRuntime
from service.runtimes.protocol import RuntimeUnusableError
from service.self_test import SelfTestError, run_self_test
from service.settings import Settings


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, 256, 256, 2), np.uint8)


def test_answers_what_the_graph_computes(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, graph=graph()))
    runtime = OnnxCpuRuntime(sessions=2)
    runtime.load(bundle)
    batch = frames(3)
    scores, maps = runtime.run(batch)
    cells = batch[..., 0].astype(np.float32).reshape(3, MAP_SIZE, 8, MAP_SIZE, 8).mean(axis=(2, 4)) / 128
    assert (scores.dtype, maps.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(maps, cells, rtol=1e-5)
    np.testing.assert_allclose(scores, cells.max(axis=(1, 2)) * SCORE_THRESHOLD, rtol=1e-5)
    runtime.close()
    runtime.close()


def test_sessions_run_side_by_side_and_do_not_mix_frames_up(tmp_path: Path) -> None:
    runtime = OnnxCpuRuntime(sessions=3)
    runtime.load(load_bundle(write_bundle(tmp_path, graph=graph())))
    assert (runtime.describe().lanes, runtime.describe().max_batch) == (3, 1)
    batch = frames(24)
    expected, _ = runtime.run(batch)
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda n: float(runtime.run(batch[n : n + 1])[0][0]), range(24)))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no graph", "cannot run .*model.onnx"),
        (graph(output="map"), "cannot run .*anomaly_map"),
        (graph(cell=16), r"anomaly_map \(1, 16, 16\).*\(1, 32, 32\)"),
    ],
    ids=["garbage", "other output", "other map"],
)
def test_unusable_graph(tmp_path: Path, content: bytes, message: str) -> None:
    bundle = load_bundle(write_bundle(tmp_path, graph=content))
    with pytest.raises(RuntimeUnusableError, match=message):
        OnnxCpuRuntime(sessions=1).load(bundle)


def with_int8(manifest: dict[str, Any]) -> None:
    """The same graph under another name, of which the golden samples expect another answer than float32's."""
    manifest["graphs"]["int8"] = "model.onnx"
    manifest["score_tolerances"] = {"int8": 1e-3}
    for sample in manifest["golden_samples"]:
        sample["answers"] = {"int8": {key: sample[key] for key in ("anomaly_map", "score", "verdict")}}
        sample["score"] *= 1.1


def test_the_precision_that_is_asked_for_runs_and_is_held_to_its_own_answers(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, graph=graph(), change=with_int8))
    runtime = OnnxCpuRuntime(1, "int8")
    runtime.load(bundle)
    assert runtime.describe().precision == "int8"
    assert run_self_test(bundle, runtime).largest_score_difference < 1e-3
    float32 = OnnxCpuRuntime(1)
    float32.load(bundle)
    with pytest.raises(SelfTestError, match=r"expected 2\.2"):
        run_self_test(bundle, float32)


def test_a_bundle_without_the_precision_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, graph=graph()))
    with pytest.raises(RuntimeUnusableError, match=r"has no int8 graph; has: float32; set precision to one"):
        OnnxCpuRuntime(1, "int8").load(bundle)


def test_a_station_without_the_precision_does_not_start(tmp_path: Path) -> None:
    write_bundle(tmp_path / "weights", graph=graph())
    settings = Settings(weights=tmp_path / "weights", var=tmp_path / "var", sessions=1, precision="int8")
    with running(settings, until_ready=False) as line:
        wait_until(lambda: line.station.state == "failed")
        assert "has no int8 graph" in line.http.get("/readyz").json()["detail"]


def test_service_in_int8(tmp_path: Path) -> None:
    write_bundle(tmp_path / "weights", graph=graph(), change=with_int8)
    settings = Settings(weights=tmp_path / "weights", var=tmp_path / "var", sessions=1, precision="int8")
    with running(settings) as line:
        assert line.post(DEFECTIVE).json()["score"] == 1.5625
        assert 'precision="int8"' in line.http.get("/metrics").text


def test_another_provider_than_asked_for_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnx_runtime.onnxruntime.InferenceSession, "get_providers", lambda _: ["AzureExecutionProvider"]
    )
    bundle = load_bundle(write_bundle(tmp_path, graph=graph()))
    with pytest.raises(RuntimeUnusableError, match="AzureExecutionProvider"):
        OnnxCpuRuntime(sessions=1).load(bundle)


@pytest.mark.parametrize("runtime", [OnnxCpuRuntime(1), FakeRuntime()])
def test_nothing_to_describe_before_loading(runtime: OnnxCpuRuntime | FakeRuntime) -> None:
    with pytest.raises(RuntimeError, match="not been loaded"):
        runtime.describe()


def test_service_on_onnx_runtime(tmp_path: Path) -> None:
    write_bundle(tmp_path / "weights", graph=graph())
    settings = Settings(weights=tmp_path / "weights", var=tmp_path / "var", sessions=2)
    with running(settings) as line:
        assert line.post(GOOD).json()["verdict"] == "pass"
        assert line.post(DEFECTIVE).json()["score"] == 1.5625
        assert 'provider="CPUExecutionProvider"' in line.http.get("/metrics").text
