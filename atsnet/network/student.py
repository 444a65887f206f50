"""The asymmetric student: it predicts the teacher's latents from a view of the part that no anomaly gets through.

By default it sees the picture only through the memory: at every place the nearest normal prototype instead of what is
there. Without a memory it sees the fused features through a narrow, noisy bottleneck. The direction is reversed (Deng,
Li, "Anomaly Detection via Reverse Distillation", CVPR 2022): from the coarse scale to the fine ones. It differs from
the teacher in input, architecture, direction and capacity, so that it follows the teacher where it was trained to, on
normal parts, and not elsewhere.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import SCALE_CHANNELS
from atsnet.network.context import DualScaleContext


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, half as wide between them, around a residual connection, without batch statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        update: Tensor = self.conv2(F.gelu(self.conv1(F.gelu(x))))
        return x + update


class FeatureView(nn.Module):
    """All scales fused at 1/16, where nothing finer gets through."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(sum(SCALE_CHANNELS), width, 1)

    def forward(self, features: Sequence[Tensor], noise: float) -> tuple[Tensor, None]:
        """Fuse standardised features of the three scales to `[N, width, h, w]` at 1/16; `noise` is added to them."""
        quarter, eighth, sixteenth = features
        fused = torch.cat([F.avg_pool2d(quarter, 4), F.avg_pool2d(eighth, 2), sixteenth], dim=1)
        return self.fuse(fused + noise * torch.randn_like(fused) if noise else fused), None


class PrototypeView(nn.Module):
    """The nearest prototypes, which are normal whatever lies there, at 1/16 and in full detail at 1/8."""

    def __init__(self, prototype_width: int, width: int) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(prototype_width, width, 2, stride=2)
        self.detail = nn.Conv2d(prototype_width, width // 2, 1)

    def forward(self, prototypes: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """From `[N, D, 2h, 2w]` to `[N, width, h, w]` at 1/16 and `[N, width / 2, 2h, 2w]` at 1/8."""
        seen = prototypes + noise * torch.randn_like(prototypes) if noise else prototypes
        return self.fuse(seen), self.detail(seen)


class Student(nn.Module):
    """Predict the teacher's latents at three scales."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        grid: int,
        dropout: float,
        noise: float,
        *,
        prototype_width: int | None = None,
        attention: bool = True,
    ) -> None:
        """`prototype_width` is D of the memory that it looks through, None to look at features."""
        super().__init__()
        quarter, eighth, sixteenth = SCALE_CHANNELS
        half = width // 2
        self.noise = noise
        self.view = FeatureView(width) if prototype_width is None else PrototypeView(prototype_width, width)
        self.dropout = nn.Dropout2d(dropout)
        self.context_16 = DualScaleContext(width, heads, window, grid, attention=attention)
        self.head_16 = nn.Conv2d(width, sixteenth, 1)
        self.up_8 = nn.Conv2d(width, half, 3, padding=1)
        self.context_8 = DualScaleContext(half, heads, window, grid, attention=attention)
        self.head_8 = nn.Conv2d(half, eighth, 1)
        self.up_4 = nn.Conv2d(half, quarter, 3, padding=1)
        self.refine_4 = ResidualBlock(quarter)
        self.head_4 = nn.Conv2d(quarter, quarter, 1)

    def forward(self, seen: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict latents.

        Args:
            seen: The nearest prototypes, `[N, D, 2h, 2w]`; without a memory the standardised features
                `[N, 64, 4h, 4w]`, `[N, 128, 2h, 2w]`, `[N, 256, h, w]`.

        Returns:
            Predicted latents, of the shapes of the features.
        """
        coarse, detail = self.view(seen, self.noise if self.training else 0.0)
        x = self.context_16(self.dropout(coarse))
        predicted_16 = self.head_16(F.gelu(x))
        x = self.up_8(_twice(x))
        x = self.context_8(x if detail is None else x + detail)
        predicted_8 = self.head_8(F.gelu(x))
        x = self.refine_4(self.up_4(_twice(x)))
        predicted_4 = self.head_4(F.gelu(x))
        return predicted_4, predicted_8, predicted_16


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
