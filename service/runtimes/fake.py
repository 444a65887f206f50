"""A runtime without a model, for tests: bright pixels are anomalous, and it blocks or fails on demand."""

import threading

import cv2
import numpy as np

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import Bundle
from service.runtimes.protocol import RuntimeDescription


class FakeRuntime:
    """Deterministic stand-in for a network.

    A frame's calibrated map is the brightness of its first channel, averaged down to the bundle's map size and
    divided by 128, 0 outside the mask; its raw score is the map's peak times the bundle's score threshold.
    """

    def __init__(self, *, lanes: int = 1, max_batch: int = 1) -> None:
        self.batches: list[int] = []
        """Number of frames of every call of `run`, in order of arrival."""
        self.closed = False
        self._lanes = lanes
        self._max_batch = max_batch
        self._open = threading.Event()
        self._open.set()
        self._running = threading.Semaphore(0)
        self._failures: list[Exception] = []
        self._bundle: Bundle | None = None

    def block(self) -> None:
        """Hold every call of `run` from now on until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Let held calls go on."""
        self._open.set()

    def wait_until_running(self, timeout_s: float = 30.0) -> None:
        """Wait until one more call of `run` has begun than this was called before.

        Raises:
            TimeoutError: None began.
        """
        if not self._running.acquire(timeout=timeout_s):
            raise TimeoutError(f"no call of run() began within {timeout_s} s")

    def fail_next(self, error: Exception) -> None:
        """Make the next call of `run` raise `error`."""
        self._failures.append(error)

    def load(self, bundle: Bundle) -> None:
        """Remember the bundle; see `Runtime.load`."""
        self._bundle = bundle

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score frames by their brightness; see `Runtime.run`."""
        self.batches.append(len(frames))
        self._running.release()
        self._open.wait()
        if self._failures:
            raise self._failures.pop(0)
        manifest = self._loaded().manifest
        size = (manifest.map_width, manifest.map_height)
        masked = np.where(frames[..., -1] > 0, frames[..., 0], 0).astype(np.float32) / 128
        maps = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in masked])
        peaks = maps.reshape(len(maps), -1).max(axis=1)
        return peaks * np.float32(manifest.calibration.score_threshold), maps

    def describe(self) -> RuntimeDescription:
        """What was loaded; see `Runtime.describe`."""
        manifest = self._loaded().manifest
        return RuntimeDescription("fake", "float32", manifest.name, manifest.version, self._lanes, self._max_batch)

    def close(self) -> None:
        """Remember that it was closed; see `Runtime.close`."""
        self.closed = True

    def _loaded(self) -> Bundle:
        if self._bundle is None:
            raise RuntimeError("the runtime has not been loaded")
        return self._bundle
