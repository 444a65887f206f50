"""ONNX Runtime on an NVIDIA GPU: bound buffers, one session a lane, every bucket warmed and captured at load.

Not yet run on a GPU: what is tested are the options, the check of the provider, and buckets and padding on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime
import structlog

from atsnet.imaging import Float32Array, UInt8Array
from model_export.batching import BUCKETS, Lane
from model_export.bundle import Bundle, BundleError, Precision
from service.runtimes.bucketed import BucketedRuntime, precision_for_gpu
from service.runtimes.protocol import RuntimeUnusableError

log = structlog.get_logger(__name__)

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
LANES: Final = 2
_INPUT: Final = "images"
_OUTPUTS: Final = ("score", "anomaly_map")


class OnnxCudaRuntime(BucketedRuntime):
    """Runs a bundle's half-precision graph, or its float32 one where it has no other.

    Args:
        device: Number of the GPU.
        allow_cpu: Serve on the CPU where there is no GPU, instead of refusing to start.
        buckets: Batch sizes.
    """

    def __init__(self, device: int = 0, *, allow_cpu: bool = False, buckets: Sequence[int] = BUCKETS) -> None:
        super().__init__(buckets)
        self._device, self._allow_cpu = device, allow_cpu

    def open_lanes(self, bundle: Bundle) -> tuple[str, Precision, Sequence[Lane]]:
        """A session a lane; see `BucketedRuntime.open_lanes`."""
        if CUDA not in onnxruntime.get_available_providers() and not self._allow_cpu:
            have = ", ".join(onnxruntime.get_available_providers())
            raise RuntimeUnusableError(
                f"the runtime 'cuda' was asked for, and this ONNX Runtime has only {have}; install 'atsnet[gpu]' "
                "instead of 'atsnet[cpu]', or set allow_cpu to serve on the CPU"
            )
        precision = precision_for_gpu(bundle)
        try:
            graph = bundle.graph(precision).read_bytes()
        except BundleError as error:
            raise RuntimeUnusableError(str(error)) from error
        session = self._session(graph, bundle, captured=True)
        provider = check_provider(session.get_providers(), allow_cpu=self._allow_cpu)
        if provider == CPU:
            log.warning("gpu_missing", asked_for=CUDA, provider=provider)
            return provider, precision, [_CpuLane(session)]
        captured = session.get_provider_options()[CUDA].get("enable_cuda_graph") == "1"
        sessions = [session, *(self._session(graph, bundle, captured=captured) for _ in range(LANES - 1))]
        manifest = bundle.manifest
        shapes = Shapes(manifest.input.frame_shape, (manifest.map_height, manifest.map_width))
        log.info("cuda_ready", device=self._device, cuda_graphs=captured, precision=precision)
        return provider, precision, [BoundLane(one, "cuda", self._device, shapes, self._buckets) for one in sessions]

    def _session(self, graph: bytes, bundle: Bundle, *, captured: bool) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = providers_for(self._device, captured=captured)
        if CUDA not in onnxruntime.get_available_providers():
            providers = [CPU]
        try:
            return onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # ONNX Runtime's own exceptions share no base but this one
            if captured and "graph" in str(error).lower():
                # One operator without a CUDA kernel is enough; the batch is then launched kernel by kernel.
                log.warning("cuda_graphs_refused", reason=str(error))
                return self._session(graph, bundle, captured=False)
            raise RuntimeUnusableError(
                f"ONNX Runtime cannot run {bundle.path} on GPU {self._device}: {error}"
            ) from error


def providers_for(device: int, *, captured: bool) -> list[Any]:
    """What to ask ONNX Runtime for.

    The exhaustive search for convolutions, its default, takes most of a second for every new shape. TF32 has the
    mantissa of half precision, and the distances of the memory were promised float32.
    """
    options: Mapping[str, str] = {
        "device_id": str(device),
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1" if captured else "0",
        "use_tf32": "0",
    }
    return [(CUDA, dict(options)), CPU]


def check_provider(found: Sequence[str], *, allow_cpu: bool) -> str:
    """The provider that a session really runs on.

    ONNX Runtime falls back to the CPU with no more than a line in its log; only the session knows.

    Raises:
        RuntimeUnusableError: It is not CUDA, and that is not allowed.
    """
    provider = found[0] if found else "no provider"
    if provider == CUDA or (provider == CPU and allow_cpu):
        return provider
    raise RuntimeUnusableError(
        f"ONNX Runtime chose {provider}; {CUDA} was asked for. Check the driver, CUDA and cuDNN (`nvidia-smi`), or set "
        "allow_cpu to serve on the CPU"
    )


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes of one frame and of one map."""

    frame: tuple[int, ...]
    anomaly_map: tuple[int, int]


class _CpuLane:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        scores, maps = self._session.run(_OUTPUTS, {_INPUT: frames})
        return scores, maps

    def close(self) -> None:
        pass


class BoundLane:
    """One session with buffers on the device for every bucket; a captured graph is bound to their addresses.

    Args:
        session: Its own: a session with captured graphs must not be run by two threads.
        kind: Of the device, as ONNX Runtime names it.
        device: Its number.
        shapes: Of frames and maps.
        buckets: Batch sizes.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, kind: str, device: int, shapes: Shapes, buckets: Sequence[int]
    ) -> None:
        self._session = session
        self._prepared = {bucket: self._prepare(kind, device, shapes, bucket) for bucket in buckets}

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See `Lane.run`."""
        binding, options, images, scores, maps = self._prepared[len(frames)]
        images.update_inplace(frames)
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return scores.numpy().copy(), maps.numpy().copy()  # not every device hands out copies

    def close(self) -> None:
        """See `Lane.close`."""
        self._prepared.clear()

    def _prepare(self, kind: str, device: int, shapes: Shapes, bucket: int) -> tuple[Any, ...]:
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        images = value([bucket, *shapes.frame], np.uint8, kind, device)
        scores = value([bucket], np.float32, kind, device)
        maps = value([bucket, *shapes.anomaly_map], np.float32, kind, device)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(_INPUT, images)
        for name, output in zip(_OUTPUTS, (scores, maps), strict=True):
            binding.bind_ortvalue_output(name, output)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(bucket))  # one captured graph for each shape
        return binding, options, images, scores, maps
