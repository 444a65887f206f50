"""Normalisation of feature statistics by an exponential moving average over normal batches."""

import torch
from torch import Tensor, nn


class EmaNorm(nn.Module):
    """Standardise each channel by moving averages of its first two moments.

    In training mode a call first moves the averages towards the batch's moments; in eval mode they stand still. The
    averages start at zero and are bias-corrected as Adam's (Kingma, Ba 2015, section 3), so that a few batches are
    enough for usable statistics. Nothing is learned by gradient, and everything is float32.
    """

    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor

    def __init__(self, channels: int, momentum: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__()
        if not 0 < momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, not {momentum}")
        self.momentum, self.eps = momentum, eps
        self.register_buffer("first_moment", torch.zeros(channels))
        self.register_buffer("second_moment", torch.zeros(channels))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Move the averages towards the moments of a batch, `[N, C, H, W]`."""
        features = features.float()
        self.first_moment.lerp_(features.mean(dim=(0, 2, 3)), 1 - self.momentum)
        self.second_moment.lerp_(features.square().mean(dim=(0, 2, 3)), 1 - self.momentum)
        self.steps += 1

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Bias-corrected mean and standard deviation, `[C]` each; 0 and 1 before the first batch."""
        correction = 1 - self.momentum ** self.steps.float()
        correction = torch.where(self.steps > 0, correction, torch.ones_like(correction))
        mean = self.first_moment / correction
        variance = torch.clamp(self.second_moment / correction - mean.square(), min=0)
        variance = torch.where(self.steps > 0, variance, torch.ones_like(variance))
        return mean, torch.sqrt(variance + self.eps)

    def forward(self, features: Tensor) -> Tensor:
        """Standardise `[N, C, H, W]`; in training mode after an update by the same batch."""
        if self.training:
            self.update(features)
        mean, deviation = self.statistics()
        return (features.float() - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
