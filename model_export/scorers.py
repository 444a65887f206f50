"""The two ways to score frames that export compares: the trained network in PyTorch, and a graph in ONNX Runtime."""

import copy
from typing import Final, Protocol

import numpy as np
import onnxruntime
import torch

from atsnet.imaging import Float32Array, UInt8Array
from atsnet.network.atsnet import AtsNet
from model_export.onnx_file import INPUT_NAME, OUTPUT_NAMES

_PROVIDER: Final = "CPUExecutionProvider"


class Scorer(Protocol):
    """Anything that inspects frames."""

    @property
    def description(self) -> str:
        """What computes, with its version."""

    def __call__(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """From `uint8 [N, H, W, C]` to raw scores `float32 [N]` and maps `[N, h, w]` in units of the map threshold."""


class TorchScorer:
    """The network as it was trained, on the CPU in float32: what every exported graph is measured against."""

    def __init__(self, network: AtsNet, map_threshold: float) -> None:
        self._network = copy.deepcopy(network).cpu().eval()
        self._map_threshold = map_threshold

    @property
    def description(self) -> str:
        """See `Scorer`."""
        return f"PyTorch {torch.__version__.partition('+')[0]}, CPU, float32"

    @torch.inference_mode()
    def __call__(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See `Scorer`."""
        scores, maps = self._network(torch.from_numpy(frames))
        return scores.numpy(), (maps / self._map_threshold).numpy()


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
