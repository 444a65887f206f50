"""Which runtime the settings ask for; only the one that is asked for is imported."""

from service.runtimes.protocol import Runtime
from service.settings import Settings


def make_runtime(settings: Settings) -> Runtime:
    """The runtime of a station, not yet loaded."""
    match settings.runtime:
        case "cpu":
            from service.runtimes.onnx import OnnxCpuRuntime

            return OnnxCpuRuntime(settings.sessions, settings.precision)
        case "cuda":
            from service.runtimes.onnx_cuda import OnnxCudaRuntime

            return OnnxCudaRuntime(settings.device, allow_cpu=settings.allow_cpu)
        case "tensorrt":
            from service.runtimes.tensorrt import TensorRtRuntime

            engines = settings.engines or settings.var / "engines"
            return TensorRtRuntime(engines, build=settings.build_engine, device=settings.device)
        case "triton":
            from service.runtimes.triton import TritonRuntime

            return TritonRuntime(settings.triton_url, timeout_s=settings.triton_timeout_ms / 1000)


def make_interim_runtime(settings: Settings) -> Runtime | None:
    """What inspects until that runtime is prepared, if the settings name it."""
    if settings.interim_runtime is None or settings.runtime != "tensorrt":
        return None
    return make_runtime(settings.model_copy(update={"runtime": settings.interim_runtime}))
