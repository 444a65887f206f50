"""The remote runtime: its own logic with a connection of the tests, and tritonclient against a server of the tests."""

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import MAP_SIZE, SCORE_THRESHOLD, write_bundle

from model_export.bundle import Bundle, load_bundle
from model_export.triton import model_config
from service.runtimes.protocol import RuntimeUnusableError
from service.runtimes.triton import RemoteError, TritonRuntime
from service.self_test import run_self_test


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path, graph=b"a graph"))


@pytest.fixture
def sha256(bundle: Bundle) -> str:
    return bundle.manifest.files["model.onnx"].sha256


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, 256, 256, 2), np.uint8)


def brightness(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cells = batch[..., 0].astype(np.float32).reshape(len(batch), MAP_SIZE, 8, MAP_SIZE, 8).mean(axis=(2, 4)) / 128
    return cells.max(axis=(1, 2)) * np.float32(SCORE_THRESHOLD), cells


class Remote:
    """What the connections of a test talk to."""

    def __init__(self, sha256: str) -> None:
        self.ready = True
        self.failure: RemoteError | None = None
        self.configuration: dict[str, Any] = {
            "max_batch_size": 16,
            "parameters": {
                "precision": {"string_value": "float32"},
                "graph_sha256.3": {"string_value": "0" * 64},
                "graph_sha256.4": {"string_value": sha256},
            },
        }
        self.description: dict[str, Any] = {
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": ["-1", "256", "256", "2"]}],
            "outputs": [
                {"name": "score", "datatype": "FP32", "shape": ["-1", "1"]},
                {"name": "anomaly_map", "datatype": "FP32", "shape": ["-1", str(MAP_SIZE), str(MAP_SIZE)]},
            ],
        }
        self.asked: list[tuple[str, str, int, float]] = []
        self.connections = 0
        self.dropped = 0

    def connect(self, url: str) -> "Connection":
        assert url == "gpu:8001"
        self.connections += 1
        return Connection(self)


class Connection:
    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def is_ready(self, model: str) -> bool:
        return self.remote.ready and model == "tec-grain-demo"

    def config(self, model: str) -> Mapping[str, Any]:  # noqa: ARG002
        return self.remote.configuration

    def metadata(self, model: str, version: str) -> Mapping[str, Any]:  # noqa: ARG002
        return self.remote.description

    def infer(self, model: str, version: str, batch: np.ndarray, timeout_s: float) -> tuple[np.ndarray, np.ndarray]:
        if self.remote.failure:
            raise self.remote.failure
        self.remote.asked.append((model, version, len(batch), timeout_s))
        scores, maps = brightness(batch)
        count = len(batch) - self.remote.dropped
        return scores[:count, None], maps[:count]

    def close(self) -> None:
        self.remote.connections -= 1


@pytest.fixture
def remote(sha256: str) -> Remote:
    return Remote(sha256)


@pytest.fixture
def runtime(remote: Remote) -> TritonRuntime:
    return TritonRuntime("gpu:8001", timeout_s=0.5, lanes=2, connect=remote.connect)


def test_it_asks_for_the_number_that_has_its_graph(runtime: TritonRuntime, remote: Remote, bundle: Bundle) -> None:
    runtime.load(bundle)
    assert remote.asked == [("tec-grain-demo", "4", 1, 0.5)] * 2  # one a connection
    scores, maps = runtime.run(frames(3))
    np.testing.assert_array_equal(scores, brightness(frames(3))[0])
    np.testing.assert_array_equal(maps, brightness(frames(3))[1])
    description = runtime.describe()
    assert (description.provider, description.lanes, description.max_batch) == ("Triton gpu:8001", 2, 16)
    assert run_self_test(bundle, runtime).samples == 2


def test_a_model_that_is_not_ready(runtime: TritonRuntime, remote: Remote, bundle: Bundle) -> None:
    remote.ready = False
    with pytest.raises(RuntimeUnusableError, match="Triton at gpu:8001 has no model 'tec-grain-demo' that is ready"):
        runtime.load(bundle)
    assert remote.connections == 0


def test_another_graph_under_the_same_name(runtime: TritonRuntime, remote: Remote, bundle: Bundle) -> None:
    del remote.configuration["parameters"]["graph_sha256.4"]
    with pytest.raises(
        RuntimeUnusableError,
        match=r"has not the graph of .*, but 3: 000000000000…; put it .* `atsnet deploy .* --triton",
    ):
        runtime.load(bundle)
    del remote.configuration["parameters"]
    with pytest.raises(RuntimeUnusableError, match="but none with a sha256"):
        runtime.load(bundle)
    assert remote.connections == 0


@pytest.mark.parametrize(
    ("kind", "index", "field", "value", "message"),
    [
        ("inputs", 0, "datatype", "FP32", r"images is \('FP32', .*expected \('UINT8'"),
        ("inputs", 0, "shape", ["-1", "512", "256", "2"], r"images is .*512.*expected .*256"),
        ("outputs", 1, "shape", ["-1", "8", "8"], r"anomaly_map is .*\[-1, 8, 8\]"),
        ("outputs", 1, "name", "map", r"anomaly_map is None.*; map is "),
    ],
)
def test_another_interface_than_the_bundle_says(
    runtime: TritonRuntime, remote: Remote, bundle: Bundle, kind: str, index: int, field: str, value: Any, message: str
) -> None:
    remote.description = deepcopy(remote.description)
    remote.description[kind][index][field] = value
    with pytest.raises(RuntimeUnusableError, match=message):
        runtime.load(bundle)


def test_a_failure_concerns_one_batch_alone(runtime: TritonRuntime, remote: Remote, bundle: Bundle) -> None:
    runtime.load(bundle)
    remote.failure = RemoteError("did not answer in time")
    for _ in range(5):  # more than there are connections
        with pytest.raises(RemoteError):
            runtime.run(frames(1))
    remote.failure = None
    assert len(runtime.run(frames(1))[0]) == 1


def test_fewer_answers_than_frames(runtime: TritonRuntime, remote: Remote, bundle: Bundle) -> None:
    runtime.load(bundle)
    remote.dropped = 1
    with pytest.raises(RemoteError, match="answered 2 scores to 3 frames"):
        runtime.run(frames(3))


def test_a_server_that_fails_while_loading(runtime: TritonRuntime, remote: Remote, bundle: Bundle) -> None:
    remote.failure = RemoteError("cannot be reached")
    with pytest.raises(RuntimeUnusableError, match="cannot be reached"):
        runtime.load(bundle)
    assert remote.connections == 0


def test_closing_twice_is_harmless(runtime: TritonRuntime, remote: Remote, bundle: Bundle) -> None:
    runtime.load(bundle)
    assert remote.connections == 2
    runtime.close()
    runtime.close()
    assert remote.connections == 0


def test_a_machine_without_tritonclient(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(RuntimeUnusableError, match=r"install 'atsnet\[triton\]'"):
        TritonRuntime("gpu:8001").load(bundle)


class TestOverGrpc:
    """With tritonclient, against a server that speaks Triton's protocol and was given our own configuration."""

    @pytest.fixture
    def servicer(self, bundle: Bundle, sha256: str) -> Any:
        from fake_triton import Servicer

        return Servicer(model_config(bundle, {7: sha256}))

    @pytest.fixture
    def url(self, servicer: Any) -> Any:
        from fake_triton import serving

        with serving(servicer) as url:
            yield url

    def test_it_answers_and_passes_the_self_test(self, url: str, servicer: Any, bundle: Bundle) -> None:
        runtime = TritonRuntime(url, lanes=2)
        runtime.load(bundle)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda n: runtime.run(frames(n)), [1, 32, 3, 4]))
        for count, (scores, maps) in zip([1, 32, 3, 4], answers, strict=True):
            np.testing.assert_allclose(scores, brightness(frames(count))[0], rtol=1e-6)
            np.testing.assert_allclose(maps, brightness(frames(count))[1], rtol=1e-6)
        assert {request.model_version for request in servicer.requests} == {"7"}
        assert servicer.requests[-1].parameters["timeout"].int64_param == 2_000_000
        assert runtime.describe().max_batch == 32
        assert run_self_test(bundle, runtime).samples == 2
        runtime.close()

    def test_a_late_answer_is_an_error(self, url: str, servicer: Any, bundle: Bundle) -> None:
        runtime = TritonRuntime(url, timeout_s=0.3, lanes=1)
        runtime.load(bundle)
        servicer.delay_s = 1.5
        with pytest.raises(RemoteError, match=f"Triton at {url} did not answer in time"):
            runtime.run(frames(1))
        servicer.delay_s = 0.0
        assert len(runtime.run(frames(1))[0]) == 1
        runtime.close()

    def test_another_graph_is_refused(self, url: str, servicer: Any, bundle: Bundle) -> None:
        servicer.model.parameters["graph_sha256.7"].string_value = "f" * 64
        with pytest.raises(RuntimeUnusableError, match="but 7: ffffffffffff…"):
            TritonRuntime(url).load(bundle)

    def test_a_model_that_is_not_ready_is_refused(self, url: str, servicer: Any, bundle: Bundle) -> None:
        servicer.ready = False
        with pytest.raises(RuntimeUnusableError, match="no model 'tec-grain-demo' that is ready"):
            TritonRuntime(url).load(bundle)

    def test_nobody_there(self, bundle: Bundle) -> None:
        with pytest.raises(RuntimeUnusableError, match=r"Triton at 127\.0\.0\.1:1 cannot be reached"):
            TritonRuntime("127.0.0.1:1").load(bundle)
