import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_nvidia import Runtime, TensorRt, nvidia
from serving import MAP_SIZE, SCORE_THRESHOLD, write_bundle

from model_export.bundle import Bundle, GoldenMismatchError, list_bundles, load_bundle
from model_export.tensorrt import EngineCache, LaneScorer, TensorRtError, check_version
from model_export.tensorrt_calls import load_tensorrt
from service.runtimes.protocol import RuntimeUnusableError
from service.runtimes.tensorrt import TensorRtRuntime
from service.self_test import run_self_test

BUCKETS = (1, 2, 4)


def halved(manifest: dict[str, Any]) -> None:
    """The bundle's one graph counts as half precision too, with the same answers."""
    manifest["graphs"]["float16"] = "model.onnx"
    for sample in manifest["golden_samples"]:
        sample["answers"] = {"float16": {name: sample[name] for name in ("anomaly_map", "score", "verdict")}}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "weights", graph=b"a graph", change=halved))


@pytest.fixture
def cuda() -> Runtime:
    return Runtime()


@pytest.fixture
def trt(cuda: Runtime) -> TensorRt:
    return TensorRt(cuda)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture
def start(bundle: Bundle, engines: Path) -> Callable[..., TensorRtRuntime]:
    def start(trt: TensorRt, cuda: Runtime, *, build: bool = True) -> TensorRtRuntime:
        runtime = TensorRtRuntime(engines, build=build, tensorrt=nvidia(trt, cuda), buckets=BUCKETS)
        runtime.load(bundle)
        return runtime

    return start


Start = Callable[..., TensorRtRuntime]


def test_the_first_start_builds_and_the_next_ones_load(start: Start, trt: TensorRt, cuda: Runtime) -> None:
    start(trt, cuda).close()
    assert trt.built == 1
    start(trt, cuda, build=False).close()
    assert trt.built == 1


def test_what_is_asked_of_the_builder(start: Start, trt: TensorRt, cuda: Runtime) -> None:
    start(trt, cuda)
    assert trt.network_flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.flags == set()
    assert trt.profiles == [(bucket, 256, 256, 2) for bucket in BUCKETS]


def test_it_answers_and_passes_the_self_test(start: Start, trt: TensorRt, cuda: Runtime, bundle: Bundle) -> None:
    runtime = start(trt, cuda)
    frames = np.random.default_rng(3).integers(0, 256, (7, 256, 256, 2), np.uint8)
    cells = frames[..., 0].astype(np.float32).reshape(7, MAP_SIZE, 8, MAP_SIZE, 8).mean(axis=(2, 4)) / 128
    with ThreadPoolExecutor(4) as pool:  # threads that have never seen the device
        answers = list(pool.map(lambda n: runtime.run(frames[: n + 1]), range(7)))
    for count, (scores, maps) in enumerate(answers, start=1):
        np.testing.assert_allclose(scores, cells[:count].max(axis=(1, 2)) * SCORE_THRESHOLD, rtol=1e-5)
        np.testing.assert_allclose(maps, cells[:count], rtol=1e-5)
    description = runtime.describe()
    assert (description.provider, description.precision, description.lanes) == ("TensorRT 11.4.0", "float16", 2)
    assert run_self_test(bundle, runtime).samples == 2


def test_both_streams_are_used(start: Start, trt: TensorRt, cuda: Runtime) -> None:
    runtime = start(trt, cuda)
    cuda.launches.clear()
    frame = np.zeros((1, 256, 256, 2), np.uint8)
    for _ in range(4):
        runtime.run(frame)
    assert len(set(cuda.launches)) == 2


def test_closing_gives_everything_back(start: Start, trt: TensorRt, cuda: Runtime) -> None:
    start(trt, cuda).close()
    assert not cuda.memory
    assert not cuda.open_streams
    assert cuda.graphs == 0


def test_an_engine_of_another_version_is_not_taken(start: Start, trt: TensorRt, cuda: Runtime) -> None:
    start(trt, cuda)
    newer = TensorRt(cuda, "11.5.0")
    with pytest.raises(RuntimeUnusableError, match=r"no engine for[\s\S]*tensorrt_version 11\.4\.0, here 11\.5\.0"):
        start(newer, cuda, build=False)
    start(newer, cuda)
    assert newer.built == 1


def test_an_engine_of_another_gpu_is_not_taken(
    start: Start, trt: TensorRt, cuda: Runtime, bundle: Bundle, engines: Path
) -> None:
    start(trt, cuda)
    other = Runtime("NVIDIA Fake 2")
    with pytest.raises(RuntimeUnusableError, match="gpu NVIDIA Fake 1, here NVIDIA Fake 2") as refused:
        start(TensorRt(other), other, build=False)
    assert f"`atsnet deploy {bundle.path} --tensorrt --engines {engines}`" in str(refused.value)


def test_each_graph_and_set_of_buckets_has_an_engine_of_its_own(
    bundle: Bundle, trt: TensorRt, cuda: Runtime, engines: Path, tmp_path: Path
) -> None:
    other = load_bundle(write_bundle(tmp_path / "others", graph=b"another graph", change=halved))
    calls = nvidia(trt, cuda)
    paths = {
        EngineCache(engines, calls, BUCKETS).path(bundle),
        EngineCache(engines, calls, BUCKETS).path(other),
        EngineCache(engines, calls, (1, 2)).path(bundle),
    }
    assert len(paths) == 3
    assert EngineCache(engines, calls, (4, 2, 1)).path(bundle) in paths


def test_a_stale_engine_under_the_right_name_is_refused(
    start: Start, trt: TensorRt, cuda: Runtime, engines: Path
) -> None:
    start(trt, cuda)
    (record,) = engines.glob("*.json")
    content = json.loads(record.read_text())
    content["key"]["graph_sha256"] = "0" * 64
    record.write_text(json.dumps(content))
    with pytest.raises(RuntimeUnusableError, match=r"is stale: graph_sha256 0{64}, here"):
        start(trt, cuda)


def test_an_altered_engine_is_refused(start: Start, trt: TensorRt, cuda: Runtime, engines: Path) -> None:
    start(trt, cuda)
    (engine,) = engines.glob("*.engine")
    engine.write_bytes(engine.read_bytes() + b" ")
    with pytest.raises(RuntimeUnusableError, match="not the engine that was built"):
        start(trt, cuda)


@pytest.mark.parametrize("content", [None, "{}"])
def test_an_engine_without_its_record_is_refused(
    start: Start, trt: TensorRt, cuda: Runtime, engines: Path, content: str | None
) -> None:
    start(trt, cuda)
    (record,) = engines.glob("*.json")
    record.unlink()
    if content is not None:
        record.write_text(content)
    with pytest.raises(RuntimeUnusableError, match=record.name):
        start(trt, cuda)


def test_an_engine_that_answers_otherwise_is_not_kept(
    bundle: Bundle, trt: TensorRt, cuda: Runtime, engines: Path
) -> None:
    def gate(_bundle: Bundle, scorer: LaneScorer) -> None:
        assert scorer.description == "TensorRT 11.4.0, NVIDIA Fake 1"
        raise GoldenMismatchError("off")

    with pytest.raises(GoldenMismatchError):
        EngineCache(engines, nvidia(trt, cuda), BUCKETS).build(bundle, gate)
    assert not engines.exists()
    assert not cuda.memory


def test_golden_samples_are_the_gate_of_a_station(tmp_path: Path, trt: TensorRt, cuda: Runtime, engines: Path) -> None:
    def wrong(manifest: dict[str, Any]) -> None:
        halved(manifest)
        manifest["golden_samples"][1]["answers"]["float16"]["score"] *= 1.1

    bundle = load_bundle(write_bundle(tmp_path / "weights", graph=b"a graph", change=wrong))
    with pytest.raises(RuntimeUnusableError, match=r"crack\.png: score"):
        TensorRtRuntime(engines, tensorrt=nvidia(trt, cuda), buckets=BUCKETS).load(bundle)
    assert not engines.exists()


def test_timings_are_kept_and_damaged_ones_are_no_harm(
    bundle: Bundle, trt: TensorRt, cuda: Runtime, engines: Path
) -> None:
    cache = EngineCache(engines, nvidia(trt, cuda), BUCKETS)
    cache.build(bundle)
    cache.build(bundle)
    (timings,) = engines.glob("timings-*.cache")
    assert timings.read_bytes() == b"++"
    timings.write_bytes(b"damaged")
    cache.build(bundle)
    assert timings.read_bytes() == b"+"


def test_a_graph_that_tensorrt_cannot_read(tmp_path: Path, trt: TensorRt, cuda: Runtime, engines: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "weights", graph=b"no graph", change=halved))
    with pytest.raises(RuntimeUnusableError, match=r"TensorRT 11\.4\.0 cannot read the graph: node 3: no importer"):
        TensorRtRuntime(engines, tensorrt=nvidia(trt, cuda), buckets=BUCKETS).load(bundle)


def test_a_full_gpu_is_named(bundle: Bundle, trt: TensorRt, engines: Path) -> None:
    cuda = Runtime(room=1000)
    with pytest.raises(RuntimeUnusableError, match="cudaMalloc: error 2"):
        TensorRtRuntime(engines, tensorrt=nvidia(trt, cuda), buckets=BUCKETS).load(bundle)


def test_a_bundle_without_half_precision(tmp_path: Path, trt: TensorRt, cuda: Runtime, engines: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "weights"))
    with pytest.raises(RuntimeUnusableError, match="has no float16 graph; export it with --precision fp32,fp16"):
        TensorRtRuntime(engines, tensorrt=nvidia(trt, cuda), buckets=BUCKETS).load(bundle)


@pytest.mark.parametrize("version", ["10.1.0", "10.16.1.11", "11.4.0.106", "12.0"])
def test_versions_that_will_do(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "10.0.1", "unknown"])
def test_versions_that_are_too_old(version: str) -> None:
    with pytest.raises(TensorRtError, match=f"TensorRT {version} is too old.*10.1 or newer, 11 included"):
        check_version(version)


def test_a_machine_without_tensorrt(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, engines: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RuntimeUnusableError, match=r"install 'atsnet\[tensorrt\]'"):
        TensorRtRuntime(engines).load(bundle)


def test_runtimes_bring_neither_torch_nor_tensorrt_along() -> None:
    program = (
        "import sys, service.runtimes.tensorrt; "
        "sys.exit(bool({'torch', 'onnx', 'tensorrt', 'cuda', 'onnxruntime'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.gpu
def test_on_a_gpu(engines: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed here")
    weights = Path(__file__).parents[2] / "weights"
    halved = [
        bundle
        for bundle in (load_bundle(weights / name / version) for name, version in list_bundles(weights))
        if "float16" in bundle.manifest.graphs
    ]
    if not halved:
        pytest.skip("no bundle under weights/ has a half-precision graph")
    runtime = TensorRtRuntime(engines, tensorrt=load_tensorrt())
    runtime.load(halved[-1])
    assert run_self_test(halved[-1], runtime).samples == len(halved[-1].manifest.golden_samples)
