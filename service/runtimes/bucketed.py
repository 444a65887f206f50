"""What all GPU runtimes have in common: lanes that are fed batches of a few fixed sizes, all of them warmed at load.

A lane is one stream of the device with its buffers. While one computes, the next batch is copied to another.
"""

import queue
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np

from atsnet.imaging import Float32Array, UInt8Array
from model_export.batching import BUCKETS, Lane, run_padded
from model_export.bundle import Bundle, Precision
from service.runtimes.protocol import RuntimeDescription, RuntimeUnusableError

_WARM_UPS: Final = 3
"""Runs of each bucket at load: libraries choose kernels in the first and capture them in the second or third."""


class BucketedRuntime(ABC):
    """Runs padded batches on idle lanes; subclasses say where lanes come from. See `Runtime`."""

    def __init__(self, buckets: Sequence[int] = BUCKETS) -> None:
        self._buckets = tuple(sorted(buckets))
        self._lanes: list[Lane] = []
        self._idle: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._description: RuntimeDescription | None = None

    @abstractmethod
    def open_lanes(self, bundle: Bundle) -> tuple[str, Precision, Sequence[Lane]]:
        """What runs, the precision of its graph, and its lanes.

        Raises:
            RuntimeUnusableError: This machine cannot, or the bundle has no such graph.
        """

    def load(self, bundle: Bundle) -> None:
        """Open the lanes and run every bucket on each; see `Runtime.load`."""
        provider, precision, lanes = self.open_lanes(bundle)
        self._lanes = list(lanes)
        manifest = bundle.manifest
        try:
            for lane in lanes:
                for bucket in self._buckets:
                    self._warm_up(lane, bundle, bucket)
                self._idle.put(lane)
        except BaseException:
            self.close()
            raise
        self._description = RuntimeDescription(
            provider=provider,
            precision=precision,
            model=manifest.name,
            version=manifest.version,
            lanes=len(lanes),
            max_batch=max(self._buckets),
        )

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score frames on an idle lane, as few batches as they fit in; see `Runtime.run`."""
        lane = self._idle.get()
        try:
            return run_padded(lane, frames, self._buckets)
        finally:
            self._idle.put(lane)

    def describe(self) -> RuntimeDescription:
        """What was loaded; see `Runtime.describe`."""
        if self._description is None:
            raise RuntimeError("the runtime has not been loaded")
        return self._description

    def close(self) -> None:
        """Close the lanes; see `Runtime.close`."""
        while self._lanes:
            self._lanes.pop().close()
        self._idle = queue.SimpleQueue()

    def _warm_up(self, lane: Lane, bundle: Bundle, bucket: int) -> None:
        manifest = bundle.manifest
        expected = ((bucket,), (bucket, manifest.map_height, manifest.map_width))
        try:
            for _ in range(_WARM_UPS):
                scores, maps = lane.run(np.zeros((bucket, *manifest.input.frame_shape), np.uint8))
        except RuntimeUnusableError:
            raise
        except Exception as error:  # whatever the device's libraries raise
            raise RuntimeUnusableError(f"{bundle.path}: a batch of {bucket} cannot be run: {error}") from error
        if (scores.shape, maps.shape) != expected:
            raise RuntimeUnusableError(
                f"{bundle.path}: answers score {scores.shape} and anomaly_map {maps.shape} to {bucket} frames; "
                f"its manifest says {expected[0]} and {expected[1]}"
            )


def precision_for_gpu(bundle: Bundle) -> Precision:
    """Half precision where the bundle has it; an older bundle runs in float32."""
    return "float16" if "float16" in bundle.manifest.graphs else "float32"
