"""Run the PyTorch network over many frames."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from atsnet.imaging import Float32Array, UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.progress import Reporter, silent


class ScoringError(ValueError):
    """The network answered NaN or infinity, which no figure may be made from."""


@dataclass(frozen=True, slots=True)
class RawScores:
    """What the network says of N frames, not calibrated."""

    scores: Float32Array
    """`float32 [N]`."""
    maps: Float32Array
    """`float32 [N, h, w]`, at the network's map size."""


@torch.inference_mode()
def score_frames(network: AtsNet, pixels: UInt8Array, *, batch_size: int = 16, report: Reporter = silent) -> RawScores:
    """Score frames on the device that the network is on; it is put into eval mode.

    Args:
        network: A trained network.
        pixels: `uint8 [N, H, W, C]`, as `atsnet.imaging` makes them.
        batch_size: Frames at a time.
        report: Told after each batch.

    Raises:
        ScoringError: A score or map is not finite.
    """
    network.eval()
    device = next(network.parameters()).device
    scores = np.empty(len(pixels), np.float32)
    parts: list[Float32Array] = []
    for start in range(0, len(pixels), batch_size):
        # NHWC bytes become a channels-last tensor without being copied.
        score, anomaly_map = network(torch.from_numpy(pixels[start : start + batch_size]).to(device))
        stop = start + len(score)
        scores[start:stop] = score.float().cpu().numpy()
        parts.append(anomaly_map.float().cpu().numpy())
        report("scoring", stop, len(pixels))
    height, width = (side // 4 for side in pixels.shape[1:3])
    maps = np.concatenate(parts) if parts else np.empty((0, height, width), np.float32)
    bad = [
        index for index in range(len(pixels)) if not (math.isfinite(scores[index]) and np.isfinite(maps[index]).all())
    ]
    if bad:
        raise ScoringError(
            f"the network's answer is not finite for {len(bad)} of {len(pixels)} images, first for number "
            f"{bad[0] + 1}; its weights are damaged or training diverged"
        )
    return RawScores(scores, maps)
