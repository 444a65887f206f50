"""TensorRT: the engine of this GPU, built on first start where that is allowed, on two streams.

The calls themselves are in `model_export.tensorrt_calls`; neither they nor this runtime have run on a GPU yet.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from model_export.batching import BUCKETS, Lane
from model_export.bundle import Bundle, BundleError, Precision
from model_export.engine_build import EngineBuild
from model_export.tensorrt import PRECISION, EngineCache, TensorRt, TensorRtError
from model_export.tensorrt_calls import load_tensorrt
from service.runtimes.bucketed import BucketedRuntime
from service.runtimes.protocol import RuntimeUnusableError

log = structlog.get_logger(__name__)

LANES: Final = 2
"""Streams: while one computes, the other copies."""


class TensorRtRuntime(BucketedRuntime):
    """Runs the TensorRT engine of a bundle.

    Args:
        engines: Directory that engines are kept in.
        build: Build the engine when there is none; takes minutes.
        device: Number of the GPU.
        tensorrt: The calls; by default those of the installed TensorRT.
        buckets: Batch sizes.
    """

    def __init__(
        self,
        engines: Path,
        *,
        build: bool = True,
        device: int = 0,
        tensorrt: TensorRt | None = None,
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        super().__init__(buckets)
        self._engines, self._build, self._device, self._tensorrt = engines, build, device, tensorrt
        self._under_way: EngineBuild | None = None

    def is_prepared(self, bundle: Bundle) -> bool:
        """Whether the engine is there, or may not be built; see `PreparedRuntime.is_prepared`."""
        if not self._build:
            return True
        try:
            tensorrt = self._tensorrt or load_tensorrt(self._device)
            return EngineCache(self._engines, tensorrt, self._buckets).find(bundle) is not None
        except TensorRtError as error:
            raise RuntimeUnusableError(str(error)) from error

    def prepare(self, bundle: Bundle) -> None:
        """Build the engine in a process of its own; see `PreparedRuntime.prepare`."""
        self._under_way = EngineBuild(bundle.path, self._engines, self._device)
        try:
            self._under_way.wait()
        except TensorRtError as error:
            raise RuntimeUnusableError(str(error)) from error

    def close(self) -> None:
        """Close the lanes, and give up a build that is not over."""
        if self._under_way is not None:
            self._under_way.cancel()
        super().close()

    def open_lanes(self, bundle: Bundle) -> tuple[str, Precision, Sequence[Lane]]:
        """Find or build the engine and open its streams; see `BucketedRuntime.open_lanes`."""
        try:
            tensorrt = self._tensorrt or load_tensorrt(self._device)
            cache = EngineCache(self._engines, tensorrt, self._buckets)
            log.info("engine", path=str(cache.path(bundle)), built=cache.path(bundle).exists(), gpu=tensorrt.gpu.name)
            engine = cache.obtain(bundle, build=self._build)
            lanes = tensorrt.open(engine, bundle, self._buckets, LANES)
        except (TensorRtError, BundleError) as error:
            raise RuntimeUnusableError(str(error)) from error
        return f"TensorRT {tensorrt.gpu.tensorrt_version}", PRECISION, lanes
