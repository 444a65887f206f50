"""What scores frames where graphs and engines are compared: a graph in ONNX Runtime; no PyTorch is needed for it."""

from typing import Final, Protocol

import numpy as np
import onnxruntime

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import INPUT_NAME, OUTPUT_NAMES

_PROVIDER: Final = "CPUExecutionProvider"


class Scorer(Protocol):
    """Anything that inspects frames."""

    @property
    def description(self) -> str:
        """What computes, with its version."""

    def __call__(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """From `uint8 [N, H, W, C]` to raw scores `float32 [N]` and maps `[N, h, w]` in units of the map threshold."""


class OnnxScorer:
    """An ONNX file in ONNX Runtime on the CPU, one thread, as the service runs it."""

    def __init__(self, content: bytes, note: str = "") -> None:
        """`note` is added to the description."""
        self._note = note
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=[_PROVIDER])

    @property
    def description(self) -> str:
        """See `Scorer`."""
        return f"ONNX Runtime {onnxruntime.__version__}, CPU{self._note and f', {self._note}'}"

    def __call__(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See `Scorer`."""
        scores, maps = self._session.run(list(OUTPUT_NAMES), {INPUT_NAME: np.ascontiguousarray(frames)})
        return scores, maps
