import asyncio
import subprocess
import sys

import pytest

from service.runtimes import onnx_cuda
from service.runtimes.choice import make_runtime
from service.runtimes.onnx import OnnxCpuRuntime
from service.runtimes.onnx_cuda import OnnxCudaRuntime
from service.runtimes.tensorrt import TensorRtRuntime
from service.runtimes.triton import TritonRuntime
from service.settings import Settings, SettingsError, load_settings
from service.station import StartError, Station


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cpu", OnnxCpuRuntime), ("cuda", OnnxCudaRuntime), ("tensorrt", TensorRtRuntime), ("triton", TritonRuntime)],
)
def test_the_runtime_that_is_asked_for(name: str, kind: type) -> None:
    assert type(make_runtime(load_settings(runtime=name))) is kind


def test_unknown_runtime() -> None:
    with pytest.raises(SettingsError, match=r"runtime.*'cpu', 'cuda', 'tensorrt' or 'triton'"):
        load_settings(runtime="npu")


@pytest.mark.parametrize("name", ["tensorrt", "triton"])
def test_a_station_without_onnx_runtime_needs_none(name: str) -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None; import service.station; "
        "from service.runtimes.choice import make_runtime; from service.settings import load_settings; "
        f"make_runtime(load_settings(runtime='{name}'))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [("cuda", "has only CPUExecutionProvider"), ("tensorrt", "atsnet[tensorrt]"), ("triton", "atsnet[triton]")],
)
def test_a_station_whose_runtime_cannot_be_had_says_why(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(onnx_cuda.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    station = Station(settings.model_copy(update={"runtime": name}))
    with pytest.raises(StartError) as refusal:
        asyncio.run(station.start())
    assert station.state == "failed"
    assert message in str(refusal.value)
