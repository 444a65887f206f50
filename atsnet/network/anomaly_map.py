"""From teacher-student residuals to an anomaly map and an image score.

All of it is float32: squared residuals overflow half precision.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import SCALE_CHANNELS


class AnomalyMap(nn.Module):
    """Weigh, normalise, fuse and smooth the squared residuals of the scales; pool the map to a score.

    The weights are the inverse variances of each channel's residual, and the scales are made comparable by quantiles of
    their distance maps; both are learned from held-out normal images by `fit_channels` and `fit_scales`.
    """

    offsets: Tensor
    gains: Tensor
    kernel: Tensor

    def __init__(
        self,
        smoothing_sigma: float,
        score_fraction: float,
        scale_weights: Sequence[float] = (1.0,) * len(SCALE_CHANNELS),
    ) -> None:
        super().__init__()
        self.score_fraction = score_fraction
        self.shares = tuple(weight / sum(scale_weights) for weight in scale_weights)
        for index, channels in enumerate(SCALE_CHANNELS):
            self.register_buffer(f"channel_weight_{index}", torch.ones(channels))
        self.register_buffer("offsets", torch.zeros(len(SCALE_CHANNELS)))
        self.register_buffer("gains", torch.ones(len(SCALE_CHANNELS)))
        self.register_buffer("kernel", _gaussian(smoothing_sigma), persistent=False)

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor], inspect: Tensor) -> tuple[Tensor, Tensor]:
        """Score frames.

        Args:
            teacher: Latents of each scale, `[N, C, h, w]`.
            student: Predicted latents of the same shapes.
            inspect: `[N, H, W]`, 1 where a map position is to be inspected and 0 where not; its size is the map's.

        Returns:
            Raw scores `float32 [N]` and the map `float32 [N, H, W]`, about 1 at the upper end of normal.
        """
        size = (inspect.shape[1], inspect.shape[2])
        fused = torch.zeros_like(inspect, dtype=torch.float32).unsqueeze(1)
        for index, distance in enumerate(self.distances(teacher, student)):
            normalised = (distance - self.offsets[index]) * (self.gains[index] * self.shares[index])
            fused = fused + _resize(normalised.unsqueeze(1), size)
        fused = torch.clamp(fused, min=0)
        anomaly_map = smooth_inspected(fused, inspect.unsqueeze(1), self.kernel).squeeze(1)
        return self.score(anomaly_map), anomaly_map

    def distances(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
        """Weighted mean squared residual at each position, `float32 [N, h, w]` for each scale."""
        return [
            ((t.float() - s.float()).square() * self._weight(index).view(1, -1, 1, 1)).mean(dim=1)
            for index, (t, s) in enumerate(zip(teacher, student, strict=True))
        ]

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Mean of the highest positions, as many as `score_fraction` of the whole map, `[N]`."""
        flat = anomaly_map.flatten(1)
        count = max(1, round(self.score_fraction * flat.shape[1]))
        return flat.topk(count, dim=1).values.mean(dim=1)

    @torch.no_grad()
    def fit_channels(self, residual_variances: Sequence[Tensor]) -> None:
        """Set the channel weights from the residuals' variances on normal images, `[C]` for each scale.

        Raises:
            ValueError: More than half of a scale's channels do not vary, or a variance is not finite.
        """
        for index, variance in enumerate(residual_variances):
            floor = 0.1 * float(variance.median())
            if not (math.isfinite(floor) and floor > 0):
                raise ValueError(f"scale {index}: the residuals of normal images have no usable variance ({floor})")
            # A channel that hardly varies must not rule the sum: floor at a tenth of the scale's median.
            weight = 1 / torch.clamp(variance, min=floor)
            self._weight(index).copy_(weight)

    @torch.no_grad()
    def fit_scales(self, lower: Sequence[float], upper: Sequence[float]) -> None:
        """Map, for each scale, the normal distances' `lower` quantile to 0 and `upper` to 1."""
        for index, (low, high) in enumerate(zip(lower, upper, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and high > low):
                raise ValueError(f"scale {index}: the quantiles {low} and {high} of normal distances cannot be used")
            self.offsets[index] = low
            self.gains[index] = 1 / (high - low)

    def _weight(self, index: int) -> Tensor:
        weight: Tensor = getattr(self, f"channel_weight_{index}")
        return weight


def smooth_inspected(fused: Tensor, inspect: Tensor, kernel: Tensor) -> Tensor:
    """Smooth a map over its inspected positions alone: what lies in the padding does not leak into the part.

    Args:
        fused: `[N, 1, H, W]`.
        inspect: `[N, 1, H, W]`, 1 where a position is inspected and 0 where not.
        kernel: Odd, `[1, 1, K]`.

    Returns:
        `[N, 1, H, W]`, 0 where nothing is inspected.
    """
    smooth = _blur(fused * inspect, kernel) / torch.clamp(_blur(inspect, kernel), min=1e-6)
    return smooth * inspect


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    margin = kernel.shape[-1] // 2
    rows = F.conv2d(x, kernel.unsqueeze(2), padding=(0, margin))
    return F.conv2d(rows, kernel.unsqueeze(3), padding=(margin, 0))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _gaussian(sigma: float) -> Tensor:
    """Normalised kernel `[1, 1, K]` reaching three sigma to each side."""
    reach = math.ceil(3 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    return (kernel / kernel.sum()).view(1, 1, -1)
