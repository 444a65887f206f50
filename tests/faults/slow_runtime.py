"""A runtime whose capacity is known: 20 ms a frame and lane, without work for the processors."""

import time
from typing import Final

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import Bundle
from service.runtimes.onnx import OnnxCpuRuntime
from service.runtimes.protocol import RuntimeDescription
from service.settings import Settings

FRAME_S: Final = 0.02


class SlowRuntime:
    """ONNX Runtime that takes at least 20 ms a frame."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._runtime = OnnxCpuRuntime(lanes)

    def load(self, bundle: Bundle) -> None:
        self._runtime.load(bundle)

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        began = time.monotonic()
        answer = self._runtime.run(frames)
        time.sleep(max(0.0, began + FRAME_S * len(frames) - time.monotonic()))
        return answer

    def describe(self) -> RuntimeDescription:
        return self._runtime.describe()

    def close(self) -> None:
        self._runtime.close()


def make(settings: Settings) -> SlowRuntime:
    return SlowRuntime(settings.sessions)
