"""A small critic of features and of what the memory misses in them: how does this look beside an anomaly?

It is trained on anomalies that are pasted on normal images (`atsnet.data.synthetic`), so it needs no defective part.
Alone it would know those anomalies best; beside residuals and memory it weighs what they only measure. Related: the
segmentation networks of Zavrtanik, Kristan, Skočaj, "DRAEM" (ICCV 2021), and of Zhang et al., "DeSTSeg" (CVPR 2023),
which compare an image with its reconstruction as this does with the nearest prototypes. Not in the paper's abstract.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import SCALE_CHANNELS


class EvidenceHead(nn.Module):
    """Log-odds of an anomaly at each position of the map, from one frame's features."""

    def __init__(self, width: int, prototype_width: int | None, dropout: float) -> None:
        """`prototype_width` is D of the memory, None without one."""
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in SCALE_CHANNELS)
        self.missed = None if prototype_width is None else nn.Conv2d(prototype_width, width, 1, bias=False)
        self.magnitude = None if prototype_width is None else nn.Conv2d(prototype_width, width, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        self.around = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: Sequence[Tensor], missed: Tensor | None) -> Tensor:
        """Judge every position.

        Args:
            features: Standardised, `[N, 64, H, W]`, `[N, 128, H/2, W/2]`, `[N, 256, H/4, W/4]`.
            missed: Positions less their nearest prototypes, `[N, D, H/2, W/2]`; None without a memory.

        Returns:
            Log-odds `[N, H, W]`.
        """
        fine, middle, coarse = (entry(x) for entry, x in zip(self.scales, features, strict=True))
        if self.missed is not None and self.magnitude is not None and missed is not None:
            middle = middle + self.missed(missed) + self.magnitude(missed.abs())
        joined = fine + _twice(middle + _twice(coarse))
        logits: Tensor = self.around(self.dropout(joined))
        return logits.squeeze(1)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def evidence_loss(logits: Tensor, anomalous: Tensor, inspect: Tensor) -> Tensor:
    """Focal cross-entropy, the anomalous positions counting four times (scalar).

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), with gamma 2.

    Args:
        logits: `[N, H, W]`.
        anomalous: `[N, H, W]`, 1 where an anomaly was pasted and 0 where not.
        inspect: `[N, H, W]`, 1 where the frame is inspected; the rest does not count.
    """
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(logits, anomalous, reduction="none")
    probability = logits.sigmoid()
    wrong = probability + anomalous - 2 * probability * anomalous
    return (wrong.square() * entropy * (1 + 3 * anomalous) * inspect).sum() / inspect.sum().clamp(min=1)
