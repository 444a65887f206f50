"""A runtime that takes minutes to prepare: another fills in, and it takes over between two batches."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from serving import DEFECTIVE, GOOD, Line, running, wait_until, write_bundle
from structlog.testing import capture_logs
from test_tensorrt import halved

from model_export.bundle import Bundle, load_bundle
from model_export.engine_build import EngineBuild
from model_export.tensorrt import TensorRtError
from service.runtimes.choice import make_interim_runtime
from service.runtimes.fake import FakeRuntime
from service.runtimes.onnx import OnnxCpuRuntime
from service.runtimes.onnx_cuda import OnnxCudaRuntime
from service.runtimes.protocol import PreparedRuntime, RuntimeDescription, RuntimeUnusableError
from service.runtimes.tensorrt import TensorRtRuntime
from service.settings import Settings
from service.station import Station


class SlowToPrepare(FakeRuntime):
    """Prepared when the test lets it be; what was prepared is there for all of them, as an engine on the disk is."""

    prepared: set[str]
    allowed: threading.Event
    failure: str | None
    given_up: threading.Event

    def is_prepared(self, bundle: Bundle) -> bool:
        return bundle.path.name in self.prepared

    def prepare(self, bundle: Bundle) -> None:
        while not self.allowed.wait(0.01):
            if self.closed:
                self.given_up.set()
                raise RuntimeUnusableError("given up")
        if self.failure is not None:
            raise RuntimeUnusableError(self.failure)
        self.prepared.add(bundle.path.name)

    def describe(self) -> RuntimeDescription:
        before = super().describe()
        return RuntimeDescription("prepared", before.precision, before.model, before.version, 1, 1)


class Slow:
    """Makes the two runtimes of a station, and lets preparations end."""

    def __init__(self) -> None:
        fresh = {
            "prepared": set[str](),
            "allowed": threading.Event(),
            "failure": None,
            "given_up": threading.Event(),
        }
        self.kind = type("Prepared", (SlowToPrepare,), fresh)
        self.final: list[SlowToPrepare] = []
        self.interim: list[FakeRuntime] = []

    def make(self, _: Settings) -> SlowToPrepare:
        self.final.append(self.kind())
        return self.final[-1]

    def make_interim(self, _: Settings) -> FakeRuntime:
        self.interim.append(FakeRuntime())
        return self.interim[-1]


@pytest.fixture
def slow() -> Slow:
    return Slow()


@contextmanager
def serving(settings: Settings, slow: Slow) -> Iterator[Line]:
    station = Station(settings, slow.make, interim=slow.make_interim)
    with running(settings, station=station) as line:
        yield line


def provider(line: Line) -> str:
    return line.station.equipment.edition.default.loaded.description.provider


def test_the_interim_runtime_inspects_until_the_other_takes_over(settings: Settings, slow: Slow) -> None:
    with serving(settings, slow) as line:
        assert line.http.get("/readyz").status_code == 200
        assert provider(line) == "fake"
        assert line.post(DEFECTIVE).json()["verdict"] == "fail"
        slow.kind.allowed.set()
        wait_until(lambda: provider(line) == "prepared")
        before = len(slow.interim[0].batches)
        assert line.post(DEFECTIVE).json()["verdict"] == "fail"
        assert len(slow.interim[0].batches) == before
        wait_until(lambda: slow.interim[0].closed)
        assert 'provider="prepared"' in line.http.get("/metrics").text


def test_not_one_request_fails_while_it_takes_over(settings: Settings, slow: Slow) -> None:
    with serving(settings, slow) as line, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(line.post, DEFECTIVE if n % 2 else GOOD) for n in range(200)]
        wait_until(lambda: len(slow.interim[0].batches) > 20)
        slow.kind.allowed.set()
        verdicts = Counter(answer.result().json()["verdict"] for answer in answers)
        wait_until(lambda: provider(line) == "prepared")
    assert verdicts == {"pass": 100, "fail": 100}


def test_what_is_prepared_already_needs_no_interim_runtime(settings: Settings, slow: Slow) -> None:
    slow.kind.prepared.add("1")
    with serving(settings, slow) as line:
        assert provider(line) == "prepared"
        assert all(not runtime.batches for runtime in slow.interim)


def test_a_failure_leaves_the_interim_runtime_in_service_and_is_told(settings: Settings, slow: Slow) -> None:
    slow.kind.failure = "no memory for the builder"
    with capture_logs() as logs, serving(settings, slow) as line:
        slow.kind.allowed.set()
        wait_until(lambda: any(one["event"] == "runtime_not_prepared" for one in logs))
        assert line.post().json()["verdict"] == "pass"
        assert provider(line) == "fake"
    told = next(one for one in logs if one["event"] == "runtime_not_prepared")
    assert told["reason"] == "no memory for the builder"
    assert (told["bundle"], told["meanwhile"], told["log_level"]) == ("tec-grain-demo/1", "fake", "critical")


def test_an_activation_meanwhile_is_not_held_up(settings: Settings, slow: Slow, weights: Path) -> None:
    write_bundle(weights, version="2")
    with serving(settings, slow) as line:
        assert line.http.post("/v1/models/tec-grain-demo/2/activate").status_code == 200
        assert line.post().json()["model_version"] == "2"
        slow.kind.allowed.set()
        wait_until(lambda: provider(line) == "prepared")
        assert line.post().json()["model_version"] == "2"


def test_a_stop_gives_the_preparation_up(settings: Settings, slow: Slow) -> None:
    with capture_logs() as logs, serving(settings, slow):
        assert not slow.kind.given_up.is_set()
    assert slow.kind.given_up.wait(30)
    assert not slow.kind.prepared
    assert "runtime_not_prepared" not in [one["event"] for one in logs]


@pytest.mark.parametrize(("setting", "kind"), [("cuda", OnnxCudaRuntime), ("cpu", OnnxCpuRuntime)])
def test_settings_name_what_fills_in(settings: Settings, setting: Any, kind: type) -> None:
    chosen = settings.model_copy(update={"runtime": "tensorrt", "interim_runtime": setting})
    assert isinstance(make_interim_runtime(chosen), kind)
    assert make_interim_runtime(settings.model_copy(update={"interim_runtime": setting})) is None
    assert make_interim_runtime(settings.model_copy(update={"runtime": "tensorrt"})) is None


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "bundles", graph=b"a graph", change=halved))


def test_tensorrt_is_such_a_runtime() -> None:
    assert isinstance(TensorRtRuntime(Path("engines")), PreparedRuntime)


@pytest.fixture
def nvidia_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for TensorRT and CUDA's bindings that other processes find too."""
    modules = {
        "shared_cuda.py": "from fake_nvidia import Runtime\nRUNTIME = Runtime()\n",
        "tensorrt.py": """
            import sys
            from fake_nvidia import TensorRt
            from shared_cuda import RUNTIME
            sys.modules[__name__] = TensorRt(RUNTIME)
        """,
        "cuda/__init__.py": "",
        "cuda/bindings/__init__.py": "from shared_cuda import RUNTIME as runtime\n",
    }
    for name, content in modules.items():
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(content))
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path / "modules"), str(Path(__file__).parent), *sys.path]))


@pytest.mark.usefixtures("nvidia_modules")
def test_an_engine_is_built_in_a_process_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    TensorRtRuntime(tmp_path / "engines").prepare(bundle)
    names = sorted(path.suffix for path in (tmp_path / "engines").iterdir())
    assert names == [".cache", ".engine", ".json"]


def test_a_build_that_cannot_be_says_why(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnusableError, match="TensorRT cannot be used: No module named 'tensorrt'"):
        TensorRtRuntime(tmp_path / "engines").prepare(bundle)
    assert not (tmp_path / "engines").exists()


def test_a_build_that_is_given_up_ends(bundle: Bundle, tmp_path: Path) -> None:
    build = EngineBuild(bundle.path, tmp_path / "engines", 0)
    build.cancel()
    with pytest.raises(TensorRtError, match="ended with code -9"):
        build.wait()
