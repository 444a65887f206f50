"""What can be known of the GPU runtimes without a GPU: lanes, buckets, options and refusals."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from brightness_graph import graph
from serving import MAP_SIZE, SCORE_THRESHOLD, write_bundle

from model_export.batching import Lane
from model_export.bundle import Bundle, Precision, load_bundle
from service.runtimes import onnx_cuda
from service.runtimes.bucketed import BucketedRuntime
from service.runtimes.onnx_cuda import CPU, CUDA, BoundLane, OnnxCudaRuntime, Shapes, check_provider, providers_for
from service.runtimes.protocol import RuntimeUnusableError


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, 256, 256, 2), np.uint8)


def expected(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cells = batch[..., 0].astype(np.float32).reshape(len(batch), MAP_SIZE, 8, MAP_SIZE, 8).mean(axis=(2, 4)) / 128
    return cells.max(axis=(1, 2)) * SCORE_THRESHOLD, cells


class FakeLane:
    """Answers as `expected` says, and tells what it was given."""

    def __init__(self, map_size: int = MAP_SIZE) -> None:
        self.batches: list[int] = []
        self.closed = False
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.busy = False
        self._map_size = map_size

    def run(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert not self.busy, "two threads on one lane"
        self.busy = True
        self.gate.wait()
        self.batches.append(len(batch))
        self.busy = False
        if self.failure:
            raise self.failure
        scores, maps = expected(batch)
        return scores, maps[:, : self._map_size]

    def close(self) -> None:
        self.closed = True


class FakeGpuRuntime(BucketedRuntime):
    def __init__(self, *lanes: FakeLane, buckets: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__(buckets)
        self.lanes = lanes

    def open_lanes(self, bundle: Bundle) -> tuple[str, Precision, Sequence[Lane]]:  # noqa: ARG002
        return "fake GPU", "float32", self.lanes


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path, graph=graph()))


def test_every_bucket_is_warmed_on_every_lane(bundle: Bundle) -> None:
    runtime = FakeGpuRuntime(FakeLane(), FakeLane())
    runtime.load(bundle)
    for lane in runtime.lanes:
        assert lane.batches == [1] * 3 + [2] * 3 + [4] * 3
    description = runtime.describe()
    assert (description.provider, description.lanes, description.max_batch) == ("fake GPU", 2, 4)


@pytest.mark.parametrize(("count", "computed"), [(1, [1]), (3, [4]), (4, [4]), (5, [4, 1]), (11, [4, 4, 4])])
def test_batches_are_padded_and_cut(bundle: Bundle, count: int, computed: list[int]) -> None:
    lane = FakeLane()
    runtime = FakeGpuRuntime(lane)
    runtime.load(bundle)
    lane.batches.clear()
    scores, maps = runtime.run(frames(count))
    assert lane.batches == computed
    np.testing.assert_array_equal(scores, expected(frames(count))[0])
    np.testing.assert_array_equal(maps, expected(frames(count))[1])


def test_lanes_work_side_by_side(bundle: Bundle) -> None:
    lanes = FakeLane(), FakeLane()
    runtime = FakeGpuRuntime(*lanes)
    runtime.load(bundle)
    for lane in lanes:
        lane.batches.clear()
        lane.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(runtime.run, frames(2)) for _ in range(3)]
        for lane in lanes:
            lane.gate.set()
        for call in calls:
            call.result(timeout=30)
    assert sorted(len(lane.batches) for lane in lanes) in ([1, 2], [0, 3])


def test_a_lane_that_failed_serves_on(bundle: Bundle) -> None:
    lane = FakeLane()
    runtime = FakeGpuRuntime(lane)
    runtime.load(bundle)
    lane.failure = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        runtime.run(frames(1))
    lane.failure = None
    assert len(runtime.run(frames(1))[0]) == 1


def test_a_bucket_that_cannot_run_refuses_the_bundle(bundle: Bundle) -> None:
    lane = FakeLane()
    lane.failure = RuntimeError("out of memory")
    with pytest.raises(RuntimeUnusableError, match="a batch of 1 cannot be run: out of memory"):
        FakeGpuRuntime(lane).load(bundle)
    assert lane.closed


def test_another_shape_than_the_manifest_says(bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnusableError, match=r"anomaly_map \(1, 8, 32\).*\(1, 32, 32\)"):
        FakeGpuRuntime(FakeLane(map_size=8)).load(bundle)


def test_closing_closes_every_lane_and_twice_is_harmless(bundle: Bundle) -> None:
    runtime = FakeGpuRuntime(FakeLane(), FakeLane())
    runtime.load(bundle)
    runtime.close()
    runtime.close()
    assert [lane.closed for lane in runtime.lanes] == [True, True]


def test_what_onnx_runtime_is_asked_for() -> None:
    (name, options), last = providers_for(1, captured=True)
    assert (name, last) == (CUDA, CPU)
    assert options == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1",
        "use_tf32": "0",
    }
    assert providers_for(0, captured=False)[0][1]["enable_cuda_graph"] == "0"


def test_getting_another_provider_than_asked_for_is_loud() -> None:
    assert check_provider([CUDA, CPU], allow_cpu=False) == CUDA
    assert check_provider([CPU], allow_cpu=True) == CPU
    with pytest.raises(RuntimeUnusableError, match="chose CPUExecutionProvider; CUDAExecutionProvider was asked for"):
        check_provider([CPU], allow_cpu=False)
    with pytest.raises(RuntimeUnusableError, match="AzureExecutionProvider"):
        check_provider(["AzureExecutionProvider"], allow_cpu=True)
    with pytest.raises(RuntimeUnusableError, match="no provider"):
        check_provider([], allow_cpu=True)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_cuda.onnxruntime, "get_available_providers", lambda: [CPU])


@pytest.mark.usefixtures("no_cuda")
def test_a_cpu_is_no_gpu_unless_allowed(bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnusableError, match=r"has only CPUExecutionProvider; install 'atsnet\[gpu\]'"):
        OnnxCudaRuntime().load(bundle)
    runtime = OnnxCudaRuntime(allow_cpu=True, buckets=(1, 2))
    runtime.load(bundle)
    assert (runtime.describe().provider, runtime.describe().lanes, runtime.describe().precision) == (CPU, 1, "float32")
    scores, maps = runtime.run(frames(3))
    np.testing.assert_allclose(scores, expected(frames(3))[0], rtol=1e-5)
    np.testing.assert_allclose(maps, expected(frames(3))[1], rtol=1e-5)


class CudaSession:
    """A session that says it runs on a GPU."""

    asked: list[dict[str, str]]
    refuses_capture = False

    def __init__(self, content: bytes, options: Any, providers: Any) -> None:  # noqa: ARG002
        self.options = providers[0][1]
        self.asked.append(self.options)
        if self.refuses_capture and self.options["enable_cuda_graph"] == "1":
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA: self.options}


@pytest.mark.parametrize("refuses", [False, True])
def test_graphs_are_captured_where_that_is_allowed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    monkeypatch.setattr(onnx_cuda.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnx_cuda.onnxruntime, "InferenceSession", CudaSession)
    monkeypatch.setattr(onnx_cuda, "BoundLane", lambda *_: FakeLane())
    monkeypatch.setattr(CudaSession, "asked", [], raising=False)
    monkeypatch.setattr(CudaSession, "refuses_capture", refuses)
    runtime = OnnxCudaRuntime(device=3)
    runtime.load(bundle)
    assert [options["enable_cuda_graph"] for options in CudaSession.asked] == (
        ["1", "0", "0"] if refuses else ["1"] * 2
    )
    assert {options["device_id"] for options in CudaSession.asked} == {"3"}
    assert (runtime.describe().provider, runtime.describe().lanes) == (CUDA, 2)


def test_bound_buffers_answer_each_batch_anew() -> None:
    """The lane of the CUDA runtime, bound to buffers of the CPU: the same calls, another device."""
    session = onnxruntime.InferenceSession(graph(), providers=[CPU])
    lane = BoundLane(session, "cpu", 0, Shapes((256, 256, 2), (MAP_SIZE, MAP_SIZE)), (1, 4))
    batch = frames(8)
    first, second = lane.run(batch[:4]), lane.run(batch[4:])
    for answer, part in ((first, batch[:4]), (second, batch[4:])):
        np.testing.assert_allclose(answer[0], expected(part)[0], rtol=1e-5)
        np.testing.assert_allclose(answer[1], expected(part)[1], rtol=1e-5)
    assert lane.run(batch[:1])[1].shape == (1, MAP_SIZE, MAP_SIZE)


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="ONNX Runtime has no CUDA provider here")
def test_on_a_gpu(bundle: Bundle) -> None:
    runtime = OnnxCudaRuntime()
    runtime.load(bundle)
    assert runtime.describe().provider == CUDA
    scores, maps = runtime.run(frames(33))
    np.testing.assert_allclose(scores, expected(frames(33))[0], rtol=1e-4)
    np.testing.assert_allclose(maps, expected(frames(33))[1], rtol=1e-4)
