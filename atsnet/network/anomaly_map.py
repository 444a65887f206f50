"""From distances to an anomaly map and an image score.

All of it is float32: squared residuals overflow half precision.

The sources of evidence are the residuals at the three scales, the memory and the evidence head. Distances are taken
by their logarithm, so that no source alone, however loud, can outvote the others: a good part's rare places are loud in
one of them, a defect is heard in all. Each source is then made comparable: 0 at the median of normal parts and 1 at
their 99.5 % quantile, *at the same distance from the border*, half way: good parts differ most at their edges, two to
three times as much as inside, and without this the border of the part drowns what lies inside it.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import SCALE_CHANNELS

SOURCES: Final = ("1/4", "1/8", "1/16", "memory", "evidence")
"""Where evidence comes from, in the order of `AnomalyMap.offsets`."""

LEAST_DISTANCE: Final = 1e-3
"""Distances below it are taken for it: normal ones are about 1."""


class AnomalyMap(nn.Module):
    """Weigh residuals, normalise, fuse and smooth the sources of evidence; pool the map to a score.

    The channel weights are the inverse variances of each channel's residual. They and the quantiles of the sources are
    learned from held-out normal images by `fit_channels` and `fit_source`.
    """

    offsets: Tensor
    gains: Tensor
    kernel: Tensor

    def __init__(
        self, smoothing_sigma: float, score_fraction: float, source_weights: Sequence[float], rings: int
    ) -> None:
        """`source_weights` are those of `SOURCES`, 0 to leave one out; `rings` of positions are told apart."""
        super().__init__()
        self.score_fraction, self.rings = score_fraction, rings
        self.shares = tuple(weight / sum(source_weights) for weight in source_weights)
        for index, channels in enumerate(SCALE_CHANNELS):
            self.register_buffer(f"channel_weight_{index}", torch.ones(channels))
        self.register_buffer("offsets", torch.zeros(len(SOURCES), rings))
        self.register_buffer("gains", torch.ones(len(SOURCES), rings))
        self.register_buffer("kernel", _gaussian(smoothing_sigma), persistent=False)

    def forward(self, evidence: Sequence[Tensor | None], inspect: Tensor) -> tuple[Tensor, Tensor]:
        """Score frames.

        Args:
            evidence: Of each source, logarithmic, `[N, h, w]` at its own resolution; None for one that there is not.
            inspect: `[N, H, W]`, 1 where a map position is to be inspected and 0 where not; its size is the map's.

        Returns:
            Raw scores `float32 [N]` and the map `float32 [N, H, W]`, about 1 at the upper end of normal.
        """
        size = (inspect.shape[1], inspect.shape[2])
        depth = border_depth(inspect, self.rings)  # [N, R, H, W]
        fused = torch.zeros_like(inspect, dtype=torch.float32)
        for index, (source, share) in enumerate(zip(evidence, self.shares, strict=True)):
            if source is None or share == 0:
                continue
            offset = (depth * _steps(self.offsets[index])).sum(dim=1)
            gain = (depth * _steps(self.gains[index])).sum(dim=1)
            # What one source finds more normal than normal does not speak against what another one finds.
            fused = fused + share * torch.clamp((resize(source, size) - offset) * gain, min=0)
        anomaly_map = smooth_inspected(fused.unsqueeze(1), inspect.unsqueeze(1), self.kernel).squeeze(1)
        return self.score(anomaly_map), anomaly_map

    def residual_distances(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
        """Weighted mean squared residual of the latents at each position, `float32 [N, h, w]` for each scale."""
        return [
            ((t.float() - s.float()).square() * self.channel_weight(index).view(1, -1, 1, 1)).mean(dim=1)
            for index, (t, s) in enumerate(zip(teacher, student, strict=True))
        ]

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Mean of the highest positions, as many as `score_fraction` of the whole map, `[N]`."""
        flat = anomaly_map.flatten(1)
        count = max(1, round(self.score_fraction * flat.shape[1]))
        return flat.topk(count, dim=1).values.mean(dim=1)

    @staticmethod
    def logarithm(distance: Tensor) -> Tensor:
        """Of a distance, from `LEAST_DISTANCE` on."""
        return torch.log(torch.clamp(distance, min=LEAST_DISTANCE))

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
            self.channel_weight(index).copy_(weight)

    @torch.no_grad()
    def fit_source(self, index: int, lower: Sequence[float], upper: Sequence[float]) -> None:
        """Map the `lower` quantile of a source's normal evidence to 0 and `upper` to 1, ring by ring.

        Raises:
            ValueError: A pair of quantiles is not finite, or not in order.
        """
        for ring, (low, high) in enumerate(zip(lower, upper, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and high > low):
                raise ValueError(f"{SOURCES[index]}: the quantiles {low} and {high} of normal evidence cannot be used")
            self.offsets[index, ring] = low
            self.gains[index, ring] = 1 / (high - low)

    def channel_weight(self, index: int) -> Tensor:
        """Weights of a scale's channels, `[C]`."""
        weight: Tensor = getattr(self, f"channel_weight_{index}")
        return weight


def border_depth(inspect: Tensor, rings: int) -> Tensor:
    """How deep each position lies inside the inspected area, in steps of one position, `float32 [N, R, H, W]`.

    Channel r is 1 where at least r positions of the area lie between a position and the outside or the frame's edge,
    diagonals included: the sum over channels is 0 outside, 1 on the outermost ring, and `rings` from there on inwards.

    Args:
        inspect: `[N, H, W]`, 1 where inspected and 0 where not.
        rings: R, at least 1.
    """
    outside = 1 - inspect.float().unsqueeze(1)
    depths = [outside]
    for _ in range(rings - 1):
        outside = F.max_pool2d(F.pad(outside, (1, 1, 1, 1), value=1.0), 3, stride=1)
        depths.append(outside)
    return 1 - torch.cat(depths, dim=1)


def resize(evidence: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring evidence `[N, h, w]` to the map's size, bilinearly."""
    if evidence.shape[1:] == size:
        return evidence
    return F.interpolate(evidence.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)


def _steps(values: Tensor) -> Tensor:
    """From a value a ring `[R]` to what each channel of `border_depth` adds to it, `[1, R, 1, 1]`."""
    return torch.cat([values[:1], values[1:] - values[:-1]]).view(1, -1, 1, 1)


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


def _gaussian(sigma: float) -> Tensor:
    """Normalised kernel `[1, 1, K]` reaching three sigma to each side."""
    reach = math.ceil(3 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    return (kernel / kernel.sum()).view(1, 1, -1)
