"""The asymmetric student: it sees the fused features through a narrow, noisy bottleneck and predicts the latents.

The direction is reversed (Deng, Li, "Anomaly Detection via Reverse Distillation", CVPR 2022): from the coarse scale to
the fine ones. It differs from the teacher in architecture, direction and capacity, so that it follows the teacher
where it was trained to, on normal parts, and not elsewhere.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import SCALE_CHANNELS
from atsnet.network.context import DualScaleContext


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a residual connection, without batch statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        update: Tensor = self.conv2(F.gelu(self.conv1(F.gelu(x))))
        return x + update


class Student(nn.Module):
    """Predict the teacher's latents at three scales from a bottleneck at 1/16."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        grid: int,
        dropout: float,
        noise: float,
    ) -> None:
        super().__init__()
        quarter, eighth, sixteenth = SCALE_CHANNELS
        self.noise = noise
        self.fuse = nn.Conv2d(quarter + eighth + sixteenth, width, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.context_16 = DualScaleContext(width, heads, window, grid)
        self.head_16 = nn.Conv2d(width, sixteenth, 1)
        half = width // 2
        self.up_8 = nn.Conv2d(width, half, 3, padding=1)
        self.context_8 = DualScaleContext(half, heads, window, grid)
        self.head_8 = nn.Conv2d(half, eighth, 1)
        self.up_4 = nn.Conv2d(half, quarter, 3, padding=1)
        self.refine_4 = ResidualBlock(quarter)
        self.head_4 = nn.Conv2d(quarter, quarter, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Predict latents.

        Args:
            features: Standardised features `[N, 64, 4h, 4w]`, `[N, 128, 2h, 2w]`, `[N, 256, h, w]`.

        Returns:
            Predicted latents of the same shapes.
        """
        quarter, eighth, sixteenth = features
        fused = torch.cat([F.avg_pool2d(quarter, 4), F.avg_pool2d(eighth, 2), sixteenth], dim=1)
        if self.training:
            fused = fused + self.noise * torch.randn_like(fused)
        x = self.context_16(self.dropout(self.fuse(fused)))
        predicted_16 = self.head_16(F.gelu(x))
        x = self.context_8(self.up_8(_twice(x)))
        predicted_8 = self.head_8(F.gelu(x))
        x = self.refine_4(self.up_4(_twice(x)))
        predicted_4 = self.head_4(F.gelu(x))
        return predicted_4, predicted_8, predicted_16


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
