"""TensorRT and CUDA's runtime in pure Python: memory is the process's own, and the network is brightness.

They refuse what the real ones refuse: another thread's device, a launch without capture, a context without its profile,
shape or addresses, an engine of another version.
"""

import ctypes
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from serving import SCORE_THRESHOLD

from model_export.tensorrt_calls import NvidiaTensorRt, _Cuda

SUCCESS, FAILURE = 0, 2
MEMORY = 4096
"""Bytes that a context works in."""


class Runtime:
    """`cuda.bindings.runtime`."""

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self, name: str = "NVIDIA Fake 1", room: int = 1 << 40) -> None:
        self.name, self.room = name, room
        self.memory: dict[int, Any] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.launches: list[int] = []
        self.graphs = 0
        self.thread = threading.local()
        self.streams = 100
        self.open_streams: set[int] = set()

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        assert getattr(self.thread, "device", None) == 0, "this thread has no device"
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def cudaSetDevice(self, device: int) -> tuple[int]:  # noqa: N802
        self.thread.device = device
        return (SUCCESS if device == 0 else FAILURE,)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        return SUCCESS, f"error {error}".encode()

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:  # noqa: ARG002, N802
        return SUCCESS, SimpleNamespace(name=self.name.encode(), major=9, minor=0)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: ARG002, N802
        self.streams += 1
        self.open_streams.add(self.streams)
        return SUCCESS, self.streams

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        self.open_streams.remove(stream)
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        assert stream not in self.capturing, "a stream cannot be waited for while it is captured"
        return (SUCCESS,)

    def cudaMalloc(self, count: int) -> tuple[int, int]:  # noqa: N802
        if count > self.room:
            return FAILURE, 0
        buffer = (ctypes.c_uint8 * count)()
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        return SUCCESS, address

    cudaMallocHost = cudaMalloc  # noqa: N815

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        del self.memory[address]
        return (SUCCESS,)

    cudaFreeHost = cudaFree  # noqa: N815

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: int, stream: int) -> tuple[int]:  # noqa: ARG002, N802
        self.enqueue(stream, lambda: ctypes.memmove(target, source, count) and None)
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:  # noqa: ARG002, N802
        self.capturing[stream] = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, list[Callable[[], None]]]:  # noqa: N802
        return SUCCESS, self.capturing.pop(stream)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:  # noqa: ARG002, N802
        self.graphs += 1
        return SUCCESS, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[int]:  # noqa: N802
        graph.clear()
        return (SUCCESS,)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[int]:  # noqa: N802
        assert len(graph) == 4, "in, compute, and two outputs"
        self.launches.append(stream)
        for work in graph:
            self.enqueue(stream, work)
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[int]:  # noqa: ARG002, N802
        self.graphs -= 1
        return (SUCCESS,)


class Context:
    """`tensorrt.IExecutionContext` of a network that averages the first channel over cells of 8x8."""

    def __init__(self, runtime: Runtime, profiles: list[tuple[int, ...]]) -> None:
        self._runtime, self._profiles = runtime, profiles
        self._profile: int | None = None
        self._shape: tuple[int, ...] | None = None
        self._memory = 0
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:  # noqa: ARG002
        self._profile = profile
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == MEMORY
        self._memory = address

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert name == "images"
        self._shape = shape

    def execute_async_v3(self, stream: int) -> bool:
        if self._profile is None or self._shape != self._profiles[self._profile]:
            return False
        if len(self._addresses) != 3 or self._memory not in self._runtime.memory:
            return False
        self._runtime.enqueue(stream, self._compute)
        return True

    def _compute(self) -> None:
        assert self._shape is not None
        count, height, width, _ = self._shape
        frames = self._array("images", self._shape, np.uint8)
        cells = frames[..., 0].astype(np.float32).reshape(count, height // 8, 8, width // 8, 8).mean(axis=(2, 4)) / 128
        self._array("anomaly_map", cells.shape, np.float32)[:] = cells
        self._array("score", (count,), np.float32)[:] = cells.max(axis=(1, 2)) * SCORE_THRESHOLD

    def _array(self, name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(self._addresses[name]), kind).reshape(shape)


class TensorRt:
    """`tensorrt`."""

    BuilderFlag = SimpleNamespace(TF32="TF32")
    ExecutionContextAllocationStrategy = SimpleNamespace(STATIC=0, USER_MANAGED=2)
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

    def __init__(self, runtime: Runtime, version: str = "11.4.0") -> None:
        self.__version__ = version
        self._runtime = runtime
        self.built = 0
        self.flags: set[str] = {"TF32"}
        self.network_flags = 0
        self.profiles: list[tuple[int, ...]] = []
        self.timings = b""
        self.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda *_: None})

    def Builder(self, _logger: Any) -> Any:  # noqa: N802
        self.profiles = []
        return self

    def create_network(self, flags: int) -> Any:
        self.network_flags = flags
        return self

    def OnnxParser(self, _network: Any, _logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(
            parse=lambda graph: graph != b"no graph", num_errors=1, get_error=lambda _: "node 3: no importer"
        )

    def create_builder_config(self) -> Any:
        return self

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def create_timing_cache(self, content: bytes) -> Any:
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.timings + b"+")

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=self._set_shape)

    def _set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        assert name == "images"
        assert least == best == most
        self.profiles.append(best)

    def add_optimization_profile(self, profile: Any) -> None:
        pass

    def build_serialized_network(self, _network: Any, _config: Any) -> bytes | None:
        self.built += 1
        return f"{self.__version__}:{self.profiles}".encode()

    def Runtime(self, _logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, engine: bytes) -> Any:
        version, _, profiles = engine.decode().partition(":")
        if version != self.__version__:
            return None
        shapes = eval(profiles)
        return SimpleNamespace(
            num_optimization_profiles=len(shapes),
            device_memory_size_v2=MEMORY,
            create_execution_context=lambda strategy: Context(self._runtime, shapes) if strategy == 2 else None,
        )


def nvidia(trt: TensorRt, runtime: Runtime) -> NvidiaTensorRt:
    return NvidiaTensorRt(trt, _Cuda(runtime, 0))
