"""Local means, resizing and smoothing over inspected positions alone: nothing leaks from the padding into the part.

Resizing and smoothing are linear filters divided by the same filter of the mask, so that a flat map stays flat beside
the padding.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FRAME_SIGMA = 4.0
"""Standard deviation of the smoothing in frame pixels, as in the published code of PaDiM and PatchCore."""
MAP_STRIDE = 4
"""Frame pixels a side of a position of the anomaly map."""


def local_mean(features: Tensor, inspected: Tensor) -> Tensor:
    """Sum of the inspected ones of the 3x3 positions around each, divided by nine.

    Positions beyond the part count as zeros, as those beyond the image do in the published code. It is not a detail:
    features shrink at the border, and with them the distances between normal borders, which vary the most.

    Args:
        features: `[N, C, h, w]`.
        inspected: `bool [N, h, w]`.

    Returns:
        `[N, C, h, w]`.
    """
    return F.avg_pool2d(features * inspected.unsqueeze(1), 3, 1, 1)


def resize(features: Tensor, inspected: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing to `size` (height, width) over inspected positions; shapes as for `local_mean`."""
    if features.shape[2:] == size:
        return features
    return _over_inspected(
        lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=False), features, inspected
    )


def anomaly_map(distances: Tensor, inspected: Tensor, inspected_at_map: Tensor) -> Tensor:
    """Bring distances to the map's size and smooth them.

    Args:
        distances: `[N, h, w]`, at any scale.
        inspected: `bool [N, h, w]`, at the same scale.
        inspected_at_map: `bool [N, H/4, W/4]`.

    Returns:
        `float32 [N, H/4, W/4]`, 0 where nothing is inspected.
    """
    size = (inspected_at_map.shape[1], inspected_at_map.shape[2])
    enlarged = resize(distances.float().unsqueeze(1), inspected, size)
    return smooth(enlarged.squeeze(1), inspected_at_map)


def smooth(maps: Tensor, inspected: Tensor, sigma: float = FRAME_SIGMA / MAP_STRIDE) -> Tensor:
    """Gaussian smoothing, cut off at four sigma.

    Args:
        maps: `[N, h, w]`.
        inspected: `bool [N, h, w]`.
        sigma: In positions.

    Returns:
        `[N, h, w]`, 0 where nothing is inspected.
    """
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2).view(1, 1, 1, -1)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, kernel, padding=(0, reach)), kernel.transpose(2, 3), padding=(reach, 0))

    return _over_inspected(blur, maps.unsqueeze(1), inspected).squeeze(1) * inspected


def _over_inspected(linear: Callable[[Tensor], Tensor], x: Tensor, inspected: Tensor) -> Tensor:
    weight = inspected.unsqueeze(1).to(x.dtype)
    return linear(x * weight) / linear(weight).clamp(min=1e-6)
