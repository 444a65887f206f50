"""One affine coupling layer of Real NVP, which amplifies what is unlikely among normal features.

Source: Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP" (ICLR 2017), section 3.2, equations 7 and 8.
"""

import torch
from torch import Tensor, nn

_PERMUTATION_SEED = 20250821


class AffineCoupling(nn.Module):
    """Half of the channels, chosen by a fixed permutation, condition scale and shift of the other half.

    Trained by maximum likelihood on normal features: where the conditioning half predicts the other one well, the
    scale grows, and a small deviation from the normal dependence becomes a large one in the latents.
    """

    permutation: Tensor
    inverse_permutation: Tensor

    def __init__(self, channels: int, hidden: int, clamp: float, kernel_size: int = 1) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"a coupling needs an even number of channels, not {channels}")
        permutation = torch.randperm(channels, generator=torch.Generator().manual_seed(_PERMUTATION_SEED))
        self.register_buffer("permutation", permutation)
        self.register_buffer("inverse_permutation", torch.argsort(permutation))
        self.clamp = clamp
        last = nn.Conv2d(hidden, channels, 1)
        # The layer starts as the identity, so that the first steps cannot blow up.
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(torch.zeros(channels))
        self.subnet = nn.Sequential(
            nn.Conv2d(channels // 2, hidden, kernel_size, padding=kernel_size // 2), nn.GELU(), last
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to latents.

        Args:
            x: `[N, C, H, W]`, standardised.

        Returns:
            Latents `[N, C, H, W]` and the log-determinant of the Jacobian at each position, `[N, H, W]`.
        """
        condition, changed = x.index_select(1, self.permutation).chunk(2, dim=1)
        log_scale, shift = self._scale_and_shift(condition)
        latents = torch.cat([condition, changed * torch.exp(log_scale) + shift], dim=1)
        return latents, log_scale.sum(dim=1)

    def inverse(self, latents: Tensor) -> Tensor:
        """Map latents `[N, C, H, W]` back to features."""
        condition, changed = latents.chunk(2, dim=1)
        log_scale, shift = self._scale_and_shift(condition)
        x = torch.cat([condition, (changed - shift) * torch.exp(-log_scale)], dim=1)
        return x.index_select(1, self.inverse_permutation)

    def _scale_and_shift(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        raw_scale, shift = self.subnet(condition).chunk(2, dim=1)
        return self.clamp * torch.tanh(raw_scale / self.clamp), shift


def negative_log_likelihood(latents: Tensor, log_determinant: Tensor) -> Tensor:
    """Mean negative log-likelihood a channel and position under a standard normal, without its constant (scalar)."""
    energy = 0.5 * latents.square().sum(dim=1)
    return (energy - log_determinant).mean() / latents.shape[1]
