"""Every call into TensorRT and CUDA: building an engine, and running it by captured graphs from pinned buffers.

Written against the Python bindings of TensorRT 10.16 and 11.4 and cuda-bindings 12 and 13. Not yet run on a GPU: keep
whatever can be decided without one out of this file.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from atsnet.imaging import Float32Array, UInt8Array
from model_export.batching import Lane
from model_export.bundle import Bundle
from model_export.tensorrt import Gpu, TensorRtError, check_version

_INPUT: Final = "images"
_OUTPUTS: Final = ("score", "anomaly_map")


def load_tensorrt(device: int = 0) -> "NvidiaTensorRt":
    """TensorRT on a GPU of this machine.

    Raises:
        TensorRtError: TensorRT or CUDA's bindings are not installed, too old, or there is no such GPU.
    """
    try:
        import tensorrt
        from cuda.bindings import runtime
    except ImportError as error:
        raise TensorRtError(
            f"TensorRT cannot be used: {error}; on a machine with an NVIDIA GPU install 'atsnet[tensorrt]'"
        ) from error
    check_version(tensorrt.__version__)
    return NvidiaTensorRt(tensorrt, _Cuda(runtime, device))


class NvidiaTensorRt:
    """See `model_export.tensorrt.TensorRt`."""

    def __init__(self, trt: Any, cuda: "_Cuda") -> None:
        self._trt, self._cuda = trt, cuda
        self._logger = trt.Logger(trt.Logger.WARNING)

    @property
    def gpu(self) -> Gpu:
        """See `TensorRt.gpu`."""
        properties = self._cuda.properties()
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return Gpu(name, f"{properties.major}.{properties.minor}", str(self._trt.__version__))

    def build(
        self, graph: bytes, frame_shape: tuple[int, int, int], buckets: Sequence[int], timing_cache: bytes
    ) -> tuple[bytes, bytes]:
        """See `TensorRt.build`."""
        trt = self._trt
        self._cuda.select()
        builder = trt.Builder(self._logger)
        # TensorRT 11 knows no other networks, and takes the flag for the sake of programs like this one.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(graph):
            errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
            raise TensorRtError(f"TensorRT {trt.__version__} cannot read the graph: {errors}")
        config = builder.create_builder_config()
        # On by default, and no more precise than half precision: the memory's distances were promised float32.
        config.clear_flag(trt.BuilderFlag.TF32)
        timings = config.create_timing_cache(timing_cache)
        if timings is None or not config.set_timing_cache(timings, False):
            timings = config.create_timing_cache(b"")
            config.set_timing_cache(timings, False)
        for bucket in buckets:
            shape = (bucket, *frame_shape)
            profile = builder.create_optimization_profile()
            profile.set_shape(_INPUT, shape, shape, shape)
            config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise TensorRtError(f"TensorRT {trt.__version__} cannot build the engine; its log says why")
        return bytes(engine), bytes(config.get_timing_cache().serialize())

    def open(self, engine: bytes, bundle: Bundle, buckets: Sequence[int], lanes: int) -> Sequence[Lane]:
        """See `TensorRt.open`."""
        self._cuda.select()
        runtime = self._trt.Runtime(self._logger)
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise TensorRtError(f"TensorRT {self._trt.__version__} cannot load the engine; its log says why")
        if loaded.num_optimization_profiles != len(buckets):
            raise TensorRtError(f"the engine has {loaded.num_optimization_profiles} profiles, not {len(buckets)}")
        manifest = bundle.manifest
        shapes = (manifest.input.frame_shape, (), (manifest.map_height, manifest.map_width))
        return [_EngineLane(self._trt, self._cuda, loaded, shapes, buckets) for _ in range(lanes)]


@dataclass
class _Prepared:
    """One bucket of a lane: buffers, and all of its work as one graph."""

    context: Any
    host: list[np.ndarray[Any, Any]]
    pinned: list[int]
    device: list[int]
    graph: Any


class _EngineLane:
    """One stream; each bucket copies in, computes and copies out in one launch.

    Buckets run one after the other and share the memory for what lies between input and output: by itself, every
    context would take as much as the largest profile needs.
    """

    def __init__(
        self, trt: Any, cuda: "_Cuda", engine: Any, shapes: Sequence[tuple[int, ...]], buckets: Sequence[int]
    ) -> None:
        self._cuda, self._engine = cuda, engine
        self._shared = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._stream = cuda.stream()
        self._scratch = cuda.allocate(max(1, engine.device_memory_size_v2))
        self._prepared = {bucket: self._prepare(shapes, bucket, profile) for profile, bucket in enumerate(buckets)}

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See `Lane.run`."""
        prepared = self._prepared[len(frames)]
        images, scores, maps = prepared.host
        images[:] = frames
        self._cuda.select()  # the current device belongs to the thread
        self._cuda.launch(prepared.graph, self._stream)
        self._cuda.wait(self._stream)
        return scores.copy(), maps.copy()

    def close(self) -> None:
        """See `Lane.close`."""
        self._cuda.select()
        while self._prepared:
            _, prepared = self._prepared.popitem()
            self._cuda.destroy_graph(prepared.graph)
            for address in prepared.device:
                self._cuda.free(address)
            for address in prepared.pinned:
                self._cuda.free_pinned(address)
        if self._scratch:
            self._cuda.free(self._scratch)
            self._cuda.destroy_stream(self._stream)
            self._scratch = 0

    def _prepare(self, shapes: Sequence[tuple[int, ...]], bucket: int, profile: int) -> _Prepared:
        context = self._engine.create_execution_context(self._shared)
        if context is None or not context.set_optimization_profile_async(profile, self._stream):
            raise TensorRtError(f"no execution context for a batch of {bucket}; is the GPU's memory full?")
        context.set_device_memory(self._scratch, self._engine.device_memory_size_v2)
        self._cuda.wait(self._stream)
        host, pinned, device = [], [], []
        for name, shape, kind in zip((_INPUT, *_OUTPUTS), shapes, (np.uint8, np.float32, np.float32), strict=True):
            array, address = self._cuda.pinned((bucket, *shape), kind)
            host.append(array)
            pinned.append(address)
            device.append(self._cuda.allocate(array.nbytes))
            context.set_tensor_address(name, device[-1])
        context.set_input_shape(_INPUT, (bucket, *shapes[0]))

        def work() -> None:
            self._cuda.copy_in(device[0], pinned[0], host[0].nbytes, self._stream)
            if not context.execute_async_v3(self._stream):
                raise TensorRtError(f"TensorRT cannot run a batch of {bucket}; its log says why")
            for index in (1, 2):
                self._cuda.copy_out(pinned[index], device[index], host[index].nbytes, self._stream)

        work()  # what is done lazily must not be captured
        self._cuda.wait(self._stream)
        self._cuda.begin_capture(self._stream)
        work()
        return _Prepared(context, host, pinned, device, self._cuda.end_capture(self._stream))


class _Cuda:
    """The CUDA runtime on one device; every failure is an exception. Streams are given as plain handles."""

    def __init__(self, runtime: Any, device: int) -> None:
        self._runtime, self._device = runtime, device
        self.select()

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(error)
            raise TensorRtError(f"CUDA: {name}: {text.decode() if isinstance(text, bytes) else text}")
        return values[0] if values else None

    def select(self) -> None:
        self._call("cudaSetDevice", self._device)

    def properties(self) -> Any:
        return self._call("cudaGetDeviceProperties", self._device)

    def stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def allocate(self, count: int) -> int:
        return int(self._call("cudaMalloc", count))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], kind: type) -> tuple[np.ndarray[Any, Any], int]:
        count = int(np.prod(shape)) * np.dtype(kind).itemsize
        address = int(self._call("cudaMallocHost", count))
        memory = (ctypes.c_uint8 * count).from_address(address)
        return np.frombuffer(memoryview(memory), kind).reshape(shape), address

    def free_pinned(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def copy_in(self, target: int, source: int, count: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source, count, kind, stream)

    def copy_out(self, target: int, source: int, count: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, source, count, kind, stream)

    def begin_capture(self, stream: int) -> None:
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        graph = self._call("cudaStreamEndCapture", stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return executable

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)
