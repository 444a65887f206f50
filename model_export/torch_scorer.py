"""The trained network in PyTorch: what the graph that is made of it has to answer like."""

import copy

import torch

from atsnet.imaging import Float32Array, UInt8Array
from atsnet.network.atsnet import AtsNet


class TorchScorer:
    """The network as it was trained, on the CPU in float32: what every exported graph is measured against."""

    def __init__(self, network: AtsNet, map_threshold: float) -> None:
        self._network = copy.deepcopy(network).cpu().eval()
        self._map_threshold = map_threshold

    @property
    def description(self) -> str:
        """See `model_export.scorers.Scorer`."""
        return f"PyTorch {torch.__version__.partition('+')[0]}, CPU, float32"

    @torch.inference_mode()
    def __call__(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """See `model_export.scorers.Scorer`."""
        scores, maps = self._network(torch.from_numpy(frames))
        return scores.numpy(), (maps / self._map_threshold).numpy()
